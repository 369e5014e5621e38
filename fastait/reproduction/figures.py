"""The figures: the paper's 2, 3 and 4 as PNG files, each beside the numbers that it shows, and the list of all."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastait.reproduction.drawing import (
    STEP,
    about,
    available,
    blank_sheet,
    caption,
    first_weight,
    looked_at,
    plain,
    write_csv,
    write_sheet,
)
from fastait.reproduction.epsilons import accuracies
from fastait.runtime.errors import InputError
from fastait.runtime.files import write_whole
from fastait.runtime.randomness import derive

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fastait.data import Dataset, ImageSet
    from fastait.reproduction.drawing import Advance, Models

LOSS_IMAGES, LOSS_STARTS, LOSS_STEPS = 5, 10, 100
"""Of figure 2."""

FEATURE_IMAGES, FEATURE_CLASSES, PERPLEXITY = 500, 10, 30
"""Of figure 3. Of a set with more classes the first ones are shown."""

SHOWN_IMAGES, SHOWN_STEPS = 6, (1, 3, 5, 10)
"""Of figure 4: images, and the numbers L of attack steps."""

KINDS = ("clean", "PGD-20", "adversarial interpolation")
NAMES = {"natural": "Natural", "adv-interp": "Adv-Interp"}
"""What the paper calls the systems."""

COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
"""Ten that can be told apart with deficient colour vision too (Petroff, arXiv 2107.02270)."""

MARKERS = "osv^DP"
"""Beside the colours, so that a class can be told without them."""


@dataclass(frozen=True)
class Figure:
    """One of the paper's figures, or ``epsilons``: accuracy against epsilon.

    Attributes:
        title: what it shows.
        systems: the trained models that it needs, by name.
        draw: (models by system, data set, folder, epsilon, seed, advance) -> the files that were written.

    ``draw`` writes its pictures and their data into the folder, which exists, the same bytes for the same models,
    images, epsilon in [0, 1] and seed on one machine. Models map images in [0, 1] to logits, have ``features``, are on
    one device and are left as they were; they are looked at in fp32 and eval mode. Figures 2 and 3 take as many as are
    given. ``advance()`` is called after each part of the work, and may raise to stop it. Raises InputError if
    matplotlib is missing or the images do not do.
    """

    title: str
    systems: tuple[str, ...]
    draw: "Callable[[Models, Dataset, Path, float, int, Advance], list[Path]]"


def adversarial_losses(
    models: "Models", dataset: "Dataset", out: Path, epsilon: float, seed: int, advance: "Advance"
) -> list[Path]:
    """Figure 2 (A.7): cross-entropy at the iterates 1 to 100 of PGD from 10 random starts, for 5 images.

    The images are the first ones of the test set, in its order, that the first model classifies correctly and whose
    class has not been taken yet. Starts are the same for all models. All panels share one logarithmic axis: on axes
    of their own a loss of 3 would look like one of 30.

    Writes ``figure2.png`` and ``figure2.csv``: system, image (place in the test set), class, start, iteration, loss.
    """
    available()
    from fastait.runtime.report import epsilon_text

    first = next(iter(models))
    places = _correct_places(models[first], first, dataset.test, LOSS_IMAGES)
    classes = [dataset.classes[label] for label in dataset.test.labels[places].tolist()]
    losses = {
        system: _loss_curves(model, dataset.test, places, epsilon, seed, advance) for system, model in models.items()
    }
    rows = [
        (system, place, name, start, step, f"{loss:.8g}")
        for system, of_system in losses.items()
        for place, name, of_image in zip(places.tolist(), classes, of_system.tolist(), strict=True)
        for start, curve in enumerate(of_image)
        for step, loss in enumerate(curve, 1)
    ]

    sheet = blank_sheet(2.2 * len(places) + 0.8, 2.2 * len(losses) + 0.8)
    axes = sheet.subplots(len(losses), len(places), sharex=True, sharey=True, squeeze=False)
    for row, (system, of_system) in enumerate(losses.items()):
        for column, (place, name) in enumerate(zip(places.tolist(), classes, strict=True)):
            panel = axes[row, column]
            colour = COLOURS[row * 2 % len(COLOURS)]
            panel.plot(range(1, LOSS_STEPS + 1), of_system[column].T.numpy(), color=colour, lw=0.8, alpha=0.7)
            panel.set_yscale("log")
            panel.grid(alpha=0.3)
            if row == 0:
                panel.set_title(f"{plain(name)} (test image {place})", fontsize=9)
            if row == len(losses) - 1:
                panel.set_xlabel("PGD iteration")
        axes[row, 0].set_ylabel(f"{_called(system)}\ncross-entropy")
    sheet.suptitle("Adversarial loss against PGD iterations")
    caption(
        sheet,
        about(dataset, list(models.values()), epsilon, seed),
        f"{LOSS_STARTS} random starts per image, steps of {epsilon_text(STEP * epsilon)}. "
        f"Images: the first in the test set that {_called(first)} classifies correctly, each of another class. "
        "One logarithmic axis for all panels.",
    )
    columns = ("system", "image", "class", "start", "iteration", "loss")
    return [write_sheet(sheet, out / "figure2.png"), write_csv(columns, rows, out / "figure2.csv")]


def feature_distributions(
    models: "Models", dataset: "Dataset", out: Path, epsilon: float, seed: int, advance: "Advance"
) -> list[Path]:
    """Figure 3 (A.8): t-SNE of the penultimate features of test images, clean, under PGD-20 and interpolated.

    The test set's first images of each class, classes in proportion. PGD-20 is the paper's attack on the shown model;
    adversarial interpolation is Algorithm 1 with L = 1, partners by reversing the order. One t-SNE is fitted per model
    to all three kinds together, so that the panels of a column can be compared; those of a row cannot.

    Writes ``figure3.png`` and ``figure3.csv``: system, kind, image (place among the shown), class, predicted, x, y.
    """
    available()
    images = _first_classes(dataset.test, FEATURE_CLASSES)
    images = images.stratified(min(FEATURE_IMAGES, len(images)))
    names = [plain(name) for name in dataset.classes[:FEATURE_CLASSES]]
    if len(images) < 4:
        raise InputError(f"{dataset.name}: figure 3 needs at least 4 test images, there are {len(images)}")
    perplexity = min(PERPLEXITY, (len(images) - 1) / 3)
    points, predicted = {}, {}
    for system, model in models.items():
        features, predicted[system] = _features(model, images, epsilon, seed, advance)
        points[system] = _tsne(features, perplexity, seed)
        advance()
    rows = [
        (system, kind, i, dataset.classes[label], dataset.classes[said], f"{x:.6g}", f"{y:.6g}")
        for system in points
        for kind, of_kind, guesses in zip(KINDS, points[system].tolist(), predicted[system].tolist(), strict=True)
        for i, ((x, y), label, said) in enumerate(zip(of_kind, images.labels.tolist(), guesses, strict=True))
    ]

    sheet = blank_sheet(3.6 * len(points) + 1.2, 10.8)
    axes = sheet.subplots(3, len(points), sharex="col", sharey="col", squeeze=False)
    for column, system in enumerate(points):
        for row, kind in enumerate(KINDS):
            panel = axes[row, column]
            correct = (predicted[system][row] == images.labels).double().mean().item()
            accuracy = f"accuracy {100 * correct:.1f} %"
            panel.set_title(accuracy if row else f"{_called(system)}\n{accuracy}", fontsize=10)
            panel.set(xticks=[], yticks=[])
            if column == 0:
                panel.set_ylabel(kind)
            for label, name in enumerate(names):
                x, y = points[system][row][images.labels == label].T.numpy()
                style = {"color": COLOURS[label % len(COLOURS)], "marker": MARKERS[label % len(MARKERS)]}
                panel.scatter(x, y, s=11, linewidths=0, alpha=0.8, label=name, **style)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    legend = sheet.legend(handles, labels, loc="outside right center", frameon=False, markerscale=2)
    legend.set_title("class")
    sheet.suptitle("t-SNE of the penultimate features")
    caption(
        sheet,
        about(dataset, list(models.values()), epsilon, seed),
        f"{len(images)} test images of {len(names)} classes in each panel. "
        f"One t-SNE per model (column), fitted to all three kinds together, perplexity {perplexity:.3g}: "
        "panels of a column share their axes, panels of a row do not.",
    )
    columns = ("system", "kind", "image", "class", "predicted", "x", "y")
    return [write_sheet(sheet, out / "figure3.png"), write_csv(columns, rows, out / "figure3.csv")]


def interpolated_images(
    models: "Models", dataset: "Dataset", out: Path, epsilon: float, seed: int, advance: "Advance"
) -> list[Path]:
    """Figure 4 (A.9): test images, and what adversarial interpolation makes of them with L = 1, 3, 5 and 10 steps.

    All L start from the same noise, with steps of epsilon as in training. The images, one or none of each class where
    there are more classes than images, move as one batch: the first and the last are partners, and so on inwards.

    Writes ``figure4.png`` and ``figure4.npz``: ``natural`` float32 [N, H, W, 3] in [0, 1], ``interpolated`` float32
    [len(steps), N, H, W, 3], ``steps`` int64.
    """
    available()
    import numpy as np
    import torch

    from fastait.data.picture import change
    from fastait.interpolation import adversarial_interpolation
    from fastait.runtime.report import epsilon_text

    ((system, model),) = models.items()
    images = dataset.test.stratified(min(SHOWN_IMAGES, len(dataset.test)))
    weight = first_weight(model)
    x = images.floats(torch.arange(len(images)), weight.device, weight.dtype)
    interpolated: list[Any] = []
    with looked_at(model):
        for steps in SHOWN_STEPS:
            generator = torch.Generator(weight.device).manual_seed(derive(seed, "figure4"))
            moved, _ = adversarial_interpolation(
                model, x, images.labels.to(weight.device), epsilon=epsilon, steps=steps, generator=generator
            )
            interpolated.append(_pixels(moved))
            advance()
    natural = _pixels(x)

    sheet = blank_sheet(1.02 * 2 * len(images) + 1.2, 1.02 * (1 + len(SHOWN_STEPS)) + 1.3)
    left, right = sheet.subfigures(1, 2, wspace=0.03)
    left.suptitle("images", fontsize=10)
    budget = epsilon_text(epsilon)
    right.suptitle(f"perturbations, by colour channel: darkest -{budget}, grey 0, brightest +{budget}", fontsize=10)
    shown = left.subplots(1 + len(SHOWN_STEPS), len(images), squeeze=False)
    changes = right.subplots(1 + len(SHOWN_STEPS), len(images), squeeze=False)
    for panel in (*shown.flat, *changes.flat):
        panel.set(xticks=[], yticks=[])
        for spine in panel.spines.values():
            spine.set_visible(False)
    for row, pixels in enumerate((natural, *interpolated)):
        shown[row, 0].set_ylabel("natural" if row == 0 else f"L = {SHOWN_STEPS[row - 1]}")
        for column in range(len(images)):
            shown[row, column].imshow(pixels[column], interpolation="nearest")
            if row:
                seen = change(pixels[column], natural[column], epsilon).clip(0, 1)
                changes[row, column].imshow(seen, interpolation="nearest")
    for panel, beside, label in zip(shown[0], changes[0], images.labels.tolist(), strict=True):
        panel.set_title(plain(dataset.classes[label]), fontsize=8)
        beside.set_title(" ", fontsize=8)  # so that both blocks' rows stay level
    sheet.suptitle(f"Natural images and adversarially interpolated ones ({_called(system)})")
    caption(
        sheet,
        about(dataset, [model], epsilon, seed),
        f"L attack steps of {budget} from one random start. "
        "Partners: the first image and the last, the second and the last but one, and so on.",
    )
    data = {"natural": natural, "interpolated": np.stack(interpolated), "steps": np.array(SHOWN_STEPS)}
    buffer = io.BytesIO()
    np.savez(buffer, **data)
    write_whole(out / "figure4.npz", buffer.getbuffer())
    return [write_sheet(sheet, out / "figure4.png"), out / "figure4.npz"]


FIGURES: dict[str, Figure] = {
    "figure2": Figure("adversarial loss against PGD iterations", ("natural", "adv-interp"), adversarial_losses),
    "figure3": Figure("t-SNE of the penultimate features", ("natural", "adv-interp"), feature_distributions),
    "figure4": Figure("adversarially interpolated images", ("adv-interp",), interpolated_images),
    "epsilons": Figure(
        "accuracy against epsilon, PGD-20 and AutoAttack",
        ("natural", "madry", "adv-interp"),
        accuracies,
    ),
}


def _called(system: str) -> str:
    return NAMES.get(system, plain(system))


def _correct_places(model: "nn.Module", name: str, images: "ImageSet", count: int) -> "Tensor":
    """int64: the first images that are classified correctly, each of another class, ``count`` at most."""
    import torch

    from fastait.evaluation.batches import Together, default_batch_size

    weight = first_weight(model)
    found: dict[int, int] = {}

    def right(places: "Tensor") -> list[int]:
        logits = model(images.floats(places, weight.device, weight.dtype))
        return places[logits.argmax(dim=1).cpu() == images.labels[places]].tolist()

    with looked_at(model), torch.no_grad():
        for of_batch in Together(default_batch_size(model, images)).over(torch.arange(len(images)), right):
            for place in of_batch:
                found.setdefault(int(images.labels[place]), place)
            if len(found) >= count:
                break
    if not found:
        raise InputError(f"the {name} model classifies none of the {len(images)} test images correctly")
    return torch.tensor(list(found.values())[:count])


def _loss_curves(
    model: "nn.Module", images: "ImageSet", places: "Tensor", epsilon: float, seed: int, advance: "Advance"
) -> "Tensor":
    """float64 [images, starts, steps], on the CPU: the loss of each iterate."""
    import torch

    from fastait.attacks import Noise, cross_entropy, input_gradient, sign_step

    weight = first_weight(model)
    repeated = places.repeat_interleave(LOSS_STARTS)
    x, y = images.floats(repeated, weight.device, weight.dtype), images.labels[repeated].to(weight.device)
    moved = Noise.seeded(derive(seed, "figure2"), weight.device).start(x, epsilon)
    curves = []

    def loss(leaf: "Tensor") -> "Tensor":
        losses = cross_entropy(model(leaf), y)
        curves.append(losses.detach().double().cpu())
        return losses.sum()

    with looked_at(model):
        for _ in range(LOSS_STEPS):
            moved = sign_step(moved, input_gradient(loss, moved), x, STEP * epsilon, epsilon)
            advance()
        with torch.no_grad():
            loss(moved)
    return torch.stack(curves[1:], dim=1).view(len(places), LOSS_STARTS, LOSS_STEPS)


def _first_classes(images: "ImageSet", count: int) -> "ImageSet":
    chosen = images.labels < count
    return images if bool(chosen.all()) else images.at(chosen.nonzero().flatten())


def _features(
    model: "nn.Module", images: "ImageSet", epsilon: float, seed: int, advance: "Advance"
) -> "tuple[Tensor, Tensor]":
    """(float [kinds, N, D], int64 [kinds, N]) on the CPU: features and predictions of the three kinds of images."""
    import torch

    from fastait.attacks import Noise, ascend
    from fastait.evaluation.batches import Together, default_batch_size
    from fastait.methods.images import interpolate
    from fastait.models import feature_function

    weight = first_weight(model)
    together = Together(default_batch_size(model, images))
    x, y = images.floats(torch.arange(len(images)), weight.device, weight.dtype), images.labels.to(weight.device)
    noise = Noise.seeded(derive(seed, "figure3"), weight.device)
    to_features = feature_function(model, x)

    def attacked(places: "Tensor") -> "Tensor":
        start, step_size = starts[places], STEP * epsilon  # indexed, a start is a copy, which the attack may write over
        return ascend(model, x[places], y[places], start, epsilon=epsilon, step_size=step_size, steps=20)

    def interpolated(at_a_time: int) -> "Tensor":
        noise.seek(torch.tensor([1], device=weight.device))
        return interpolate(
            model, to_features, x, epsilon=epsilon, step_size=epsilon, steps=1, noise=noise, at_a_time=at_a_time
        )

    with looked_at(model):
        starts = noise.start(x, epsilon)
        everything = torch.arange(len(x), device=x.device)
        moved = []
        for part in together.over(everything, attacked):
            moved.append(part)
            advance()
        kinds = x, torch.cat(moved), together.attempt(interpolated)
        advance()
        features: list[Tensor] = []
        predicted: list[Tensor] = []
        with torch.no_grad():
            for kind in kinds:

                def passed(places: "Tensor", kind: "Tensor" = kind) -> "tuple[Tensor, Tensor]":
                    return to_features(kind[places]).flatten(1).cpu(), model(kind[places]).argmax(dim=1).cpu()

                of_kind = zip(*together.over(everything, passed), strict=True)
                for whole, found in zip((features, predicted), of_kind, strict=True):
                    whole.append(torch.cat(found))
                advance()
    return torch.stack(features), torch.stack(predicted)


def _tsne(features: "Tensor", perplexity: float, seed: int) -> "Tensor":
    """float32 [kinds, N, 2] of features [kinds, N, D], by one fit."""
    import torch
    from sklearn.manifold import TSNE

    fit = TSNE(2, perplexity=perplexity, init="pca", random_state=derive(seed, "t-SNE") % 2**32)
    return torch.from_numpy(fit.fit_transform(features.flatten(0, 1).numpy())).view(*features.shape[:2], 2)


def _pixels(x: "Tensor") -> Any:
    """numpy float32 [N, H, W, 3] of images [N, 3, H, W]."""
    return x.float().permute(0, 2, 3, 1).contiguous().cpu().numpy()
