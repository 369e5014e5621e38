"""Accuracy against epsilon, as SVG files for light and for dark pages."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastait.reproduction.drawing import STEP, available, blank_sheet, first_weight, write_csv, write_svg

if TYPE_CHECKING:
    from fastait.data import Dataset
    from fastait.reproduction.drawing import Advance, Models

IMAGES = 100
"""Test images that are attacked, classes in proportion."""

SHARES = {
    "pgd20": (1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1, 4 / 3, 5 / 3, 2),
    "autoattack": (1 / 3, 2 / 3, 1, 4 / 3),
}
"""Each attack's budgets, in multiples of the one that the networks were trained with. AutoAttack has fewer, since one
of its points takes as long as all of PGD's."""

NAMES = {"natural": "natural", "madry": "PGD (Madry et al.)", "adv-interp": "adversarial interpolation"}
MARKERS = {"natural": "s", "madry": "^", "adv-interp": "o"}
ATTACKS = {"pgd20": "PGD-20", "autoattack": "AutoAttack"}

THEMES: dict[str, dict[str, str]] = {
    "light": {"text": "#1f2328", "grid": "#d1d9e0", "natural": "#e69f00", "madry": "#0072b2", "adv-interp": "#d55e00"},
    "dark": {"text": "#f0f6fc", "grid": "#3d444d", "natural": "#e69f00", "madry": "#56b4e9", "adv-interp": "#d55e00"},
}
"""Colours of Okabe and Ito, which can be told apart with deficient colour vision; markers differ too."""


def accuracies(
    models: "Models", dataset: "Dataset", out: Path, epsilon: float, seed: int, advance: "Advance"
) -> list[Path]:
    """Accuracy of natural, PGD and interpolation training under PGD-20 and AutoAttack, at budgets around epsilon.

    PGD's steps are a quarter of each budget. Both attacks are measured on the same test images.

    Writes ``epsilons-light.svg``, ``epsilons-dark.svg`` and ``epsilons.csv``: system, attack, epsilon, correct, images.
    Pictures are transparent, their text is outlines, and the same table gives the same bytes with one version of
    matplotlib.
    """
    available()
    from fastait.evaluation import CLEAN, evaluate

    images = dataset.test.stratified(min(IMAGES, len(dataset.test)))
    rows: list[tuple[Any, ...]] = []
    for system in NAMES:
        for attack, shares in SHARES.items():
            for budget in [share * epsilon for share in shares]:
                outcomes = evaluate(
                    models[system],
                    images,
                    [attack],
                    epsilon=budget,
                    step_size=STEP * budget,
                    seed=seed,
                    advance=lambda name, images: advance(),
                )
                if (system, attack) not in [row[:2] for row in rows]:
                    rows.append((system, attack, 0.0, int(outcomes.correct[CLEAN].sum()), len(images)))
                rows.append((system, attack, budget, int(outcomes.correct[attack].sum()), len(images)))
    height, width = images.images.shape[1:3]
    parameters = sum(parameter.numel() for parameter in models["natural"].parameters())
    about = (
        f"{len(images)} test images of {dataset.name} at {width}x{height}, networks of {parameters:,} parameters, "
        f"fp32 on {first_weight(models['natural']).device.type}, seed {seed}"
    )
    written = [
        write_svg(_picture(rows, epsilon, about, colours), out / f"epsilons-{theme}.svg")
        for theme, colours in THEMES.items()
    ]
    table = [(*row[:2], f"{row[2]:.8g}", *row[3:]) for row in rows]
    return [*written, write_csv(("system", "attack", "epsilon", "correct", "images"), table, out / "epsilons.csv")]


def _picture(rows: list[tuple[Any, ...]], epsilon: float, about: str, colours: dict[str, str]) -> Any:
    sheet = blank_sheet(7.4, 4.3)
    panel = sheet.subplots()
    ink = colours["text"]
    panel.axvline(255 * epsilon, color=ink, lw=0.8, ls=":")
    panel.text(
        255 * epsilon, 103, f"trained with {255 * epsilon:g}/255", color=ink, fontsize=9, ha="center", va="bottom"
    )
    for system, name in NAMES.items():
        for attack in SHARES:
            points = [(255 * budget, 100 * right / n) for s, a, budget, right, n in rows if (s, a) == (system, attack)]
            style: dict[str, Any] = {"color": colours[system], "marker": MARKERS[system], "lw": 1.8, "markersize": 6}
            if attack == "autoattack":
                style |= {"ls": "--", "markerfacecolor": "none", "markersize": 8}
            panel.plot(*zip(*points, strict=True), **style, label=name if attack == "pgd20" else None, clip_on=False)
    for attack, style in (("pgd20", {"ls": "-"}), ("autoattack", {"ls": "--", "markerfacecolor": "none"})):
        panel.plot([], [], color=ink, marker="o", lw=1.8, label=ATTACKS[attack], **style)
    panel.set(xlim=(0, 255 * 2 * epsilon), ylim=(0, 102), yticks=range(0, 101, 20))
    panel.set_xlabel("epsilon (Linf) in 1/255 of the range of pixels", color=ink)
    panel.set_ylabel("accuracy in %", color=ink)
    panel.grid(color=colours["grid"], lw=0.6)
    panel.tick_params(colors=ink)
    for side, spine in panel.spines.items():
        spine.set_color(ink)
        spine.set_visible(side in ("left", "bottom"))
    panel.set_axisbelow(True)
    sheet.legend(loc="outside upper center", ncols=3, frameon=False, labelcolor=ink, fontsize=9.5)
    sheet.supxlabel(about, fontsize=8, color=ink, x=0.01, ha="left")
    return sheet
