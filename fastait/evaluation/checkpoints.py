"""Networks from files: our runs, RobustBench-style state dicts, the authors' checkpoints."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fastait.engine.run_folder import RunFolder
from fastait.errors import InputError
from fastait.files import write_whole
from fastait.models import WideResNet

CONTAINERS = ("state_dict", "net", "model", "model_state_dict")
"""Keys under which a checkpoint may hold its state dict: RobustBench's, the authors', and common ones."""

PREFIXES = ("module.", "model.", "basic_net.")
"""What wrappers put before a network's names: DataParallel, attack classes, Feature-Scatter's attacker."""

NUMPY_SCALARS: list[Any] = [
    np.dtype,
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64")),
]
"""What an accuracy beside the weights may have been saved as."""


class UnitRange(nn.Module):
    """A network that takes images in [0, 1] as they are, where ``WideResNet`` maps them to [-1, 1] first."""

    def __init__(self, network: WideResNet):
        super().__init__()
        self.network = network

    def features(self, x: Tensor) -> Tensor:
        """As the network's, of the images as they are."""
        return self.network.features((x + 1) / 2)

    def forward(self, x: Tensor) -> Tensor:
        """As the network's, of the images as they are."""
        return self.network((x + 1) / 2)


def load_model(path: Path, inputs: str = "minus-one-one") -> tuple[nn.Module, dict[str, Any]]:
    """A network and what its run folder says of how it was trained.

    Args:
        path: a run folder, or a file: safetensors, or a state dict saved by torch, bare or under one of ``CONTAINERS``,
            its names with or without ``PREFIXES``. The architecture is read off the weights.
        inputs: what the network was trained on, once its own normalisation is done: ``minus-one-one``, as ours and the
            authors' are, or ``zero-one``, as RobustBench's plain ``WideResNet``.

    Returns:
        (network in eval mode, on images in [0, 1]; the run's config, empty for a file that lies in no run folder).

    Raises:
        InputError: there is no such file, it holds no wide ResNet, or it is damaged; the message says what differs.
    """
    config: dict[str, Any] = {}
    if path.is_dir():
        folder = RunFolder(path)
        if not folder.weights_file.is_file():
            raise InputError(f"{path} is no finished run: it has no {folder.weights_file.name}")
        if folder.config_file.is_file():
            config = _json(folder.config_file)
        path = folder.weights_file
    elif path in (RunFolder(path.parent).weights_file, RunFolder(path.parent).best_weights_file):
        beside = RunFolder(path.parent).config_file
        config = _json(beside) if beside.is_file() else {}
    network = _wide_resnet(_stripped(_read(path)), path)
    model: nn.Module = network if inputs == "minus-one-one" else UnitRange(network)
    return model.eval(), config


def check_robustbench(model: nn.Module) -> None:
    """Raise an InputError unless ``export_robustbench`` takes ``model``."""
    if not isinstance(model, WideResNet):
        raise InputError(f"--export robustbench is for fastait's WideResNet, not {type(model).__name__}")


def export_robustbench(model: nn.Module, path: Path) -> None:
    """Write a file for RobustBench: a flat state dict for its ``Hendrycks2019UsingNet``.

    That class is its ``WideResNet`` on images in [0, 1] with 2x - 1 inside, which ours is.

    Raises:
        InputError: the model is no ``WideResNet``.
        RunError: the file cannot be written.
    """
    check_robustbench(model)
    buffer = io.BytesIO()
    torch.save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, buffer)
    write_whole(path, buffer.getbuffer())


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}") from None


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such run folder or file of weights")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is no safetensors file: {error}") from None
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    # torch raises RuntimeError, UnpicklingError, EOFError, KeyError and others on files that it did not write.
    except Exception as error:
        why = "it holds more than tensors and numbers" if "weights_only" in str(error) else type(error).__name__
        raise InputError(f"{path} is no file of weights that can be loaded safely: {why}") from None
    for key in CONTAINERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    items = state.items() if isinstance(state, dict) else ()
    tensors = {name: value for name, value in items if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{path} holds no state dict, bare or under {', '.join(CONTAINERS)}")
    return tensors


def _stripped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = list(state)
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in names)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        names = list(state)
    return state


def _wide_resnet(state: dict[str, Tensor], path: Path) -> WideResNet:
    blocks = {name.split(".")[2] for name in state if name.startswith("block1.layer.")}
    try:
        width, (classes, _) = len(state["block1.layer.0.conv1.weight"]) // 16, state["fc.weight"].shape
        model = WideResNet(6 * len(blocks) + 4, width, classes)
    except (KeyError, ValueError, TypeError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path} is no wide ResNet: {why}; it has {', '.join(sorted(state)[:3])}, ...") from None
    own = model.state_dict()
    # RobustBench's class keeps a second copy of its first block, which no image passes through.
    state = {name: value for name, value in state.items() if not name.startswith("sub_block1.")}
    counters = {name for name in own if name.endswith("num_batches_tracked")}  # older files have none
    missing = sorted(own.keys() - state.keys() - counters)
    extra = sorted(state.keys() - own.keys())
    shapes = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    if missing or extra or shapes:
        found = [
            f"{what} {', '.join(names[:3])}{' and others' if len(names) > 3 else ''}"
            for what, names in (("without", missing), ("with", extra), ("with other shapes of", shapes))
            if names
        ]
        raise InputError(f"{path} is no wide ResNet of our kind: {'; '.join(found)}")
    model.load_state_dict(state, strict=False)
    return model
