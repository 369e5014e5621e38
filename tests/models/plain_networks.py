"""Networks of RobustBench's zoo as functions of its state dicts, written from its descriptions, layer by layer.

Each has a table of names and shapes, of which ``weights`` makes a state dict, and a function of (state dict, images).
"""

import torch
import torch.nn.functional as F


def weights(table, seed=0):
    """A state dict in fp64 whose logits are of order one; statistics are neither zero nor one."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in table.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name == "mean":
            state[name] = torch.rand(shape, generator=generator, dtype=torch.float64)
        elif name.endswith(("running_var", "std")):
            state[name] = 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)
        else:
            fan_in = max(1, torch.Size(shape[1:]).numel())
            state[name] = torch.randn(shape, generator=generator, dtype=torch.float64) * (2 / fan_in) ** 0.5
            if len(shape) == 1:
                state[name] = 1 + 0.1 * state[name] if name.endswith("weight") else 0.1 * state[name]
    return state


def _bn_table(name, width):
    return {
        **{f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")},
        f"{name}.num_batches_tracked": (),
    }


def _bn(state, name, x):
    part = (state[f"{name}.{each}"] for each in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *part)


def resnet_table(classes, preact=False, final_bn=False):
    table = {"conv1.weight": (64, 3, 3, 3)}
    if not preact:
        table |= _bn_table("bn1", 64)
    before = 64
    for layer, width in enumerate((64, 128, 256, 512), 1):
        for block in (0, 1):
            name = f"layer{layer}.{block}"
            table |= _bn_table(f"{name}.bn1", before if preact else width) | _bn_table(f"{name}.bn2", width)
            table |= {f"{name}.conv1.weight": (width, before, 3, 3), f"{name}.conv2.weight": (width, width, 3, 3)}
            if before != width:
                table[f"{name}.shortcut.0.weight"] = (width, before, 1, 1)
                if not preact:
                    table |= _bn_table(f"{name}.shortcut.1", width)
            before = width
    if final_bn:
        table |= _bn_table("bn", 512)
    return table | {"linear.weight": (classes, 512), "linear.bias": (classes,)}


def resnet(state, x):
    """RobustBench's ``ResNet18``."""
    x = F.relu(_bn(state, "bn1", F.conv2d(x, state["conv1.weight"], padding=1)))
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            out = F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            out = F.conv2d(F.relu(_bn(state, f"{name}.bn1", out)), state[f"{name}.conv2.weight"], padding=1)
            out = _bn(state, f"{name}.bn2", out)
            if f"{name}.shortcut.0.weight" in state:
                x = F.conv2d(x, state[f"{name}.shortcut.0.weight"], stride=stride)
                x = _bn(state, f"{name}.shortcut.1", x)
            x = F.relu(out + x)
    return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), state["linear.weight"], state["linear.bias"])


def preact_resnet(state, x, second_version=False):
    """RobustBench's ``PreActResNet`` of ``PreActBlock``, or of ``PreActBlockV2``, with ``bn_before_fc`` or without."""
    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            out = F.relu(_bn(state, f"{name}.bn1", x))
            if f"{name}.shortcut.0.weight" in state:
                x = F.conv2d(out if second_version else x, state[f"{name}.shortcut.0.weight"], stride=stride)
            out = F.conv2d(out, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            x = x + F.conv2d(F.relu(_bn(state, f"{name}.bn2", out)), state[f"{name}.conv2.weight"], padding=1)
    if "bn.weight" in state:
        x = F.relu(_bn(state, "bn", x))
    return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), state["linear.weight"], state["linear.bias"])


def gowal_table(depth, widen_factor, classes):
    table = {"mean": (3, 1, 1), "std": (3, 1, 1), "init_conv.weight": (16, 3, 3, 3)}
    before = 16
    for group in range(3):
        width = 16 * widen_factor * 2**group
        for block in range((depth - 4) // 6):
            name = f"layer.{group}.block.{block}"
            table |= _bn_table(f"{name}.batchnorm_0", before) | _bn_table(f"{name}.batchnorm_1", width)
            table |= {f"{name}.conv_0.weight": (width, before, 3, 3), f"{name}.conv_1.weight": (width, width, 3, 3)}
            if before != width:
                table[f"{name}.shortcut.weight"] = (width, before, 1, 1)
            before = width
    return table | _bn_table("batchnorm", before) | {"logits.weight": (classes, before), "logits.bias": (classes,)}


def gowal(state, x, depth, activation=F.silu):
    """RobustBench's ``DMWideResNet``; images of an even height and width in every group."""
    x = F.conv2d((x - state["mean"]) / state["std"], state["init_conv.weight"], padding=1)
    for group in range(3):
        for block in range((depth - 4) // 6):
            name, stride = f"layer.{group}.block.{block}", 2 if group and block == 0 else 1
            out = activation(_bn(state, f"{name}.batchnorm_0", x))
            if f"{name}.shortcut.weight" in state:
                x = F.conv2d(out, state[f"{name}.shortcut.weight"], stride=stride)
            padding = (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1)
            out = F.conv2d(F.pad(out, padding), state[f"{name}.conv_0.weight"], stride=stride)
            out = activation(_bn(state, f"{name}.batchnorm_1", out))
            x = x + F.conv2d(out, state[f"{name}.conv_1.weight"], padding=1)
    x = activation(_bn(state, "batchnorm", x))
    return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), state["logits.weight"], state["logits.bias"])
