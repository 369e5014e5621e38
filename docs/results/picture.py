"""The front page's picture: accuracy under AutoAttack against the time of training, ``docs/pictures/results-*.svg``."""

import sys
from pathlib import Path
from typing import Any

from fastait.reproduction.drawing import blank_sheet, write_svg
from fastait.reproduction.epsilons import THEMES

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

from tables import TEST_IMAGES, pictured, points  # noqa: E402

FAMILIES = {
    "natural": ("natural", "natural", "s"),
    "adv-interp": ("adversarial interpolation, Feature-Scatter", "adv-interp", "o"),
    "madry": ("several attack steps: PGD, TRADES, MART", "madry", "^"),
    "n-fgsm": ("one or two attack steps: N-FGSM, NuAT", "text", "D"),
}
"""How a group of rows is called, coloured and marked."""

BESIDE = {"adv-interp": ((-7, -11), "right"), "mart": ((0, 8), "center")}
"""Where a row's name stands that would lie upon another's: points from its mark, and what of it is there."""

MINUTES = (2, 5, 10, 20, 40, 80)


def family(row: str) -> str:
    """Of ``FAMILIES``."""
    row = row.removeprefix("small, ")
    if row in ("natural", "feature-scatter"):
        return "natural" if row == "natural" else "adv-interp"
    if row in ("madry", "trades", "mart"):
        return "madry"
    return "n-fgsm" if row.startswith(("n-fgsm", "nu-at")) else "adv-interp"


def picture(colours: dict[str, str]) -> Any:
    """A sheet."""
    sheet = blank_sheet(7.4, 4.3)
    panel, ink = sheet.subplots(), colours["text"]
    for name, (label, colour, marker) in FAMILIES.items():
        found = [(one.seconds, one.keeps.mean) for one in points() if not one.record and family(one.title) == name]
        style = {"color": colours[colour], "marker": marker, "ls": "", "markersize": 6, "clip_on": False}
        panel.plot(*zip(*found, strict=True), label=label, **style)
    runs = [(one.seconds, one.keeps.mean) for one in points() if one.record]
    style = {"color": colours["madry"], "marker": "*", "markersize": 13, "lw": 1.2, "markeredgecolor": ink}
    panel.plot(*zip(*runs, strict=True), label=f"records ({TEST_IMAGES:,} images, 3 seeds)", **style)
    for one in (point for point in points() if not point.record):
        place, side = BESIDE.get(one.title, ((7, -11), "left"))
        style = {"xytext": place, "textcoords": "offset points", "ha": side, "color": ink, "fontsize": 8}
        panel.annotate(one.title, (one.seconds, one.keeps.mean), **style)
    panel.set_xscale("log")
    panel.minorticks_off()
    panel.set_xticks([60 * minutes for minutes in MINUTES], [f"{minutes} min" for minutes in MINUTES])
    panel.set_xlim(60 * MINUTES[0], 60 * MINUTES[-1])
    panel.set_ylim(-3, 40)
    panel.set_xlabel("training on two CPU cores, fp32", color=ink)
    panel.set_ylabel("% under AutoAttack, 8/255", color=ink)
    panel.grid(color=colours["grid"], lw=0.6)
    panel.tick_params(colors=ink, which="both")
    for side, spine in panel.spines.items():
        spine.set_color(ink)
        spine.set_visible(side in ("left", "bottom"))
    panel.set_axisbelow(True)
    sheet.legend(loc="outside upper center", ncols=2, frameon=False, labelcolor=ink, fontsize=9.5)
    about = "CIFAR-10, JPEG re-encoded; 1,000 test images; wrn-10-2-s2 but where a row says otherwise"
    sheet.supxlabel(about, fontsize=8, color=ink, x=0.01, ha="left")
    return sheet


if __name__ == "__main__":
    for theme, colours in THEMES.items():
        write_svg(picture(colours), FOLDER.parent / "pictures" / f"results-{theme}.svg", pictured())
