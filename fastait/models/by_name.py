"""Networks made of their names: ``--model NAME``."""

import os

from torch import Tensor, nn

from fastait.models.apart import apart
from fastait.models.gowal_wide_resnet import GowalWideResNet
from fastait.models.libraries import check_registered, of_library
from fastait.models.names import LIBRARIES, ModelName, check_pretrained, parse
from fastait.models.own import of_function
from fastait.models.preact_resnet import PreActResNet18
from fastait.models.resnet import ResNet18
from fastait.models.wide_resnet import WideResNet
from fastait.runtime.arguments import count, whole
from fastait.runtime.errors import InputError


def make(
    name: str | ModelName,
    num_classes: int,
    *,
    image_size: int = 32,
    generator_seed: int | None,
    pretrained: bool = False,
    allow_own: bool = False,
) -> nn.Module:
    """The network called ``name``, in train mode, in fp32 on the CPU: images [B, 3, H, W] in [0, 1] -> logits [B, K].

    Torch's generators, default type and default device are neither asked nor changed, for this thread or others.
    Networks of libraries and of the user's own are tried on two images.

    Args:
        name: see ``names.parse``.
        num_classes: K, at least 2.
        image_size: height and width of the images that it will be given.
        generator_seed: of what it draws, below 2^63; None if weights will be loaded, so that nothing need be drawn.
        pretrained: begin with the weights that its library has; a last layer for other classes is drawn anew.
        allow_own: call a function of the user's own. Only if the user names it now: that a run folder or a file names
            one is no permission.

    Raises:
        TypeError, ValueError: ``num_classes``, ``image_size`` or ``generator_seed`` is not as above.
        InputError: there is no such network, it or its weights cannot be had, or it does not take such images or tell
            so many classes apart.
    """
    name = name if isinstance(name, ModelName) else parse(name)
    num_classes, image_size = count("num_classes", num_classes, 2), count("image_size", image_size)
    generator_seed = None if generator_seed is None else whole("generator_seed", generator_seed)
    if pretrained:
        check_pretrained(name)
    if name.kind == "own" and not allow_own:
        raise InputError(
            f"{name} is a function of somebody's own, which is called only if you name it yourself: --model {name} on "
            f'the command line, or model="{name}" in Python'
        )
    if name.kind in LIBRARIES:
        check_registered(name)  # which imports the library, as anybody's import would
    with apart(generator_seed):
        if name.kind == "own":
            model = of_function(name.name, num_classes, image_size)
        elif name.kind in LIBRARIES:
            model = of_library(name, num_classes, image_size, pretrained)
        else:
            model = built_in(name, num_classes)
        model.train()  # whose result is not to be relied on: classes that have their own often return nothing
        return model


def _refuse_too_large(name: ModelName) -> None:
    """A wide ResNet of any depth and width has a name, which may stand in somebody else's settings."""
    weights = 4 * 9 * 256 * (1 + 4 + 16) * name.widen_factor**2 * (name.depth - 4) // 3  # bytes, of the blocks
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if weights > memory:
        raise InputError(
            f"--model {name} has {weights / 1e9:.0f} GB of weights; this machine's memory is {memory / 1e9:.0f} GB"
        )


def built_in(name: ModelName, num_classes: int) -> nn.Module:
    """One of the networks of this package, as its class makes it. Draws nothing under ``torch.device("meta")``."""
    _refuse_too_large(name)
    if name.kind in ("wrn", "wrn-s2"):
        return WideResNet(name.depth, name.widen_factor, num_classes, stride=2 if name.kind == "wrn-s2" else 1)
    if name.kind.startswith("wrn-"):
        return GowalWideResNet(name.depth, name.widen_factor, num_classes, name.kind.removeprefix("wrn-"))
    if name.kind == "resnet-18":
        return ResNet18(num_classes)
    return PreActResNet18(num_classes, activated_shortcuts="-v2" in name.kind, final_bn=name.kind.endswith("-bn"))


def normalization(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation per channel by which a network that ``make`` made normalises images in [0, 1].

    None for a user's own, of which nothing is known.
    """
    if isinstance(model, WideResNet):
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    if isinstance(model, ResNet18 | PreActResNet18):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    names = ("mean", "std") if isinstance(model, GowalWideResNet) else ("image_mean", "image_std")
    mean, std = (getattr(model, each, None) for each in names)
    if not isinstance(mean, Tensor) or not isinstance(std, Tensor):
        return None
    # As they were written before they were fp32.
    means, stds = (tuple(float(f"{n:.7g}") for n in values.flatten().tolist()) for values in (mean, std))
    return means, stds
