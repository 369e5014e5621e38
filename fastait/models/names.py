"""What ``--model`` may be. Imports nothing that takes time, so that a config can be checked without torch."""

import difflib
import re
from dataclasses import dataclass

from fastait.runtime.errors import InputError, one_line

LIBRARIES = ("timm", "torchvision")
"""Prefixes of networks that a library knows by name."""

PREACT = ("preact-resnet-18", "preact-resnet-18-v2", "preact-resnet-18-bn", "preact-resnet-18-v2-bn")
"""The variants that files of others are of: in v2 a shortcut's convolution comes after BN and ReLU; with bn the last
layer does too."""

FIXED = ("resnet-18", *PREACT)

FORMS = (
    "wrn-D-W, wrn-D-W-silu, wrn-D-W-s2, resnet-18, preact-resnet-18, timm:NAME, torchvision:NAME or "
    "package.module:function"
)

DEEPEST, WIDEST = 10_000, 1000

_WIDE = re.compile(r"wrn-(\d+)-(\d+)(-silu|-relu|-s2)?")
_ALMOST_WIDE = re.compile(r"(?:wrn|wide-?res-?net)-?(\d+)-(\d+)(-?(?:silu|swish|relu|s2))?")
_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class ModelName:
    """A network's name, taken apart.

    Attributes:
        text: as it was given.
        kind: ``wrn``, ``wrn-s2``, ``wrn-silu`` or ``wrn-relu`` (a wide ResNet; the first convolution of s2 has stride
            2, the last two are Gowal et al.'s), one of ``FIXED``, ``timm``, ``torchvision`` or ``own`` (a function of
            the user's).
        depth, widen_factor: of a wide ResNet, else 0.
        name: the library's name for it, or ``package.module:function``.
    """

    text: str
    kind: str
    depth: int = 0
    widen_factor: int = 0
    name: str = ""

    def __str__(self) -> str:
        return self.text


def parse(text: str) -> ModelName:
    """``text``, the value of ``--model``, taken apart. Whether a library knows its name is found when it is made.

    Raises:
        InputError: it is no network's name; the message says what is, and the nearest one.
    """
    if not isinstance(text, str):
        raise InputError(f"--model must be a text such as wrn-10-1, got {type(text).__name__}")
    if text in FIXED:
        return ModelName(text, text)
    if wide := _WIDE.fullmatch(text):
        depth, widen_factor = int(wide[1]), int(wide[2])
        _check_wide(text, depth, widen_factor)
        return ModelName(text, f"wrn{wide[3] or ''}", depth, widen_factor)
    library, colon, name = text.partition(":")
    if colon and library in LIBRARIES:
        if not re.fullmatch(r"[\w.-]+", name):
            raise InputError(f"--model: '{one_line(text)}' must be {library}:NAME with a name that {library} registers")
        return ModelName(text, library, name=name)
    if colon and library.endswith(".py"):
        module = re.split(r"[/\\]", library)[-1].removesuffix(".py")
        raise InputError(
            f"--model: '{one_line(text)}' must name a module as an import does, in the folder that it lies in: "
            f"{module}:{name or 'function'}"
        )
    if _FUNCTION.fullmatch(text):
        return ModelName(text, "own", name=text)
    raise InputError(f"--model: '{one_line(text)}' is no network: {FORMS}.{_hint(text)}")


def check_pretrained(name: ModelName) -> None:
    """Raise an InputError unless ``--pretrained`` is for such a network."""
    if name.kind not in LIBRARIES:
        loads = "; a function of your own can load its weights itself" if name.kind == "own" else ""
        raise InputError(f"--pretrained is for timm:NAME and torchvision:NAME, not for --model {name}{loads}")


def _check_wide(text: str, depth: int, widen_factor: int) -> None:
    if not 10 <= depth <= DEEPEST or (depth - 4) % 6:
        raise InputError(
            f"--model {text}: a wide ResNet's depth must be 6n + 4 (10, 16, 22, 28, 34, ...) and at most {DEEPEST}, "
            f"got {depth}"
        )
    if not 1 <= widen_factor <= WIDEST:
        raise InputError(f"--model {text}: a wide ResNet's width must be from 1 to {WIDEST}, got {widen_factor}")


def _hint(text: str) -> str:
    plain = text.lower().replace("_", "-").strip()
    if wide := _ALMOST_WIDE.fullmatch(plain):
        activation = (wide[3] or "").lstrip("-").replace("swish", "silu")
        return f" Did you mean {'-'.join(filter(None, ('wrn', wide[1], wide[2], activation)))!r}?"
    near = difflib.get_close_matches(plain, FIXED, n=1, cutoff=0.75)
    return f" Did you mean {near[0]!r}?" if near else ""
