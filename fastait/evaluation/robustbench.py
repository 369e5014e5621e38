"""Weights as RobustBench's classes load them."""

import io
from pathlib import Path

import torch
from torch import nn

from fastait.evaluation.normalization import Normalized
from fastait.models import GowalWideResNet, PreActResNet18, ResNet18, WideResNet
from fastait.models.gowal_wide_resnet import Block
from fastait.models.wide_resnet import BasicBlock
from fastait.runtime.errors import InputError
from fastait.runtime.files import write_whole


def robustbench_class(model: nn.Module, whose: str = "the model") -> str:
    """The call that makes RobustBench's network of ``model``, which its state dict then loads into.

    Args:
        model: on images in [0, 1].
        whose: what a message calls it.

    Raises:
        InputError: RobustBench has no such network.
    """
    if isinstance(model, Normalized):
        raise InputError(
            "--export robustbench is for networks that normalise by themselves, as those that RobustBench has classes "
            f"for; {model.normalization} is assumed of {whose}"
        )
    if isinstance(model, WideResNet) and model.conv1.stride == (1, 1):
        return f"Hendrycks2019UsingNet(depth={_depth(model, BasicBlock)}, widen_factor={model.fc.in_features // 64})"
    if isinstance(model, GowalWideResNet):
        width = model.logits.in_features // 64
        activation = "Swish" if isinstance(model.relu, nn.SiLU) else "nn.ReLU"
        return (
            f"DMWideResNet(num_classes={model.num_classes}, depth={_depth(model, Block)}, width={width}, "
            f"activation_fn={activation})"
        )
    if isinstance(model, ResNet18):
        return f"ResNet(BasicBlock, [2, 2, 2, 2], num_classes={model.num_classes})"
    if isinstance(model, PreActResNet18):
        block = "PreActBlockV2" if model.layer1[0].activated else "PreActBlock"
        final = ", bn_before_fc=True" if model.bn is not None else ""
        return f"PreActResNet({block}, [2, 2, 2, 2], num_classes={model.num_classes}{final})"
    raise InputError(
        "--export robustbench is for wrn-D-W, wrn-D-W-silu, resnet-18, preact-resnet-18 and their variants, not for "
        f"{whose}"
    )


def export_robustbench(model: nn.Module, path: Path) -> str:
    """Write a file for RobustBench, a flat state dict; returns the call that makes the network for it.

    ``Hendrycks2019UsingNet`` is its ``WideResNet`` on images in [0, 1] with 2x - 1 inside, which ours is.

    Raises:
        InputError: RobustBench has no such network.
        RunError: the file cannot be written.
    """
    made_by = robustbench_class(model)
    buffer = io.BytesIO()
    torch.save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, buffer)
    write_whole(path, buffer.getbuffer())
    return made_by


def _depth(model: nn.Module, block: type[nn.Module]) -> int:
    """Of a wide ResNet whose blocks are of this class, with two convolutions each."""
    return 2 * sum(isinstance(module, block) for module in model.modules()) + 4
