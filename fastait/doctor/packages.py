"""Whether the installed packages fit each other, by what they say of themselves, and can be imported."""

import importlib.metadata
import importlib.util
import operator
import re
from collections.abc import Iterator

from fastait.doctor.findings import Finding, Setup, ok, skipped, wrong

OF = ("fastait", "torch", "torchvision")
"""Whose requirements are looked at."""


def packages(setup: Setup) -> Finding:
    """What ``OF`` ask for, where it is installed, is installed in a version that they name."""
    bad, seen = {}, set()
    for owner in OF:
        for name, wanted in _requirements(owner):
            try:
                have = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
            seen.add(name)
            if not fits(have, wanted):
                bad[name] = (f"{owner} needs {name}{wanted}, but {have} is installed", f"'{name}{wanted}'")
    if bad:
        return wrong(
            "; ".join(message for message, _ in bad.values()),
            f"pip install {' '.join(remedy for _, remedy in bad.values())}",
        )
    return ok(f"{len(seen)} packages have the versions that {', '.join(OF)} ask for")


def torchvision(setup: Setup) -> Finding:
    """Built for another torch, it fails at its import."""
    if importlib.util.find_spec("torchvision") is None:
        return skipped("torchvision is not installed; cifar10, cifar100 and svhn need it")
    import torch
    from torchvision.ops import nms

    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.1]])
    if len(nms(boxes, torch.tensor([1.0, 0.5]), 0.5)) != 1:
        return wrong("its compiled operators are wrong", "install the torchvision that fits torch")
    return ok("its compiled operators work with this torch")


def apex(setup: Setup) -> Finding:
    """Whether ``--optimizer apex`` could be used."""
    if importlib.util.find_spec("apex") is None:
        return skipped("not installed, and not needed: torch's fused SGD does the same")
    if not setup.on_gpu:
        return skipped("it is for GPUs")
    if importlib.util.find_spec("amp_C") is None:
        return wrong(
            "the apex that is installed is not NVIDIA's, or was built without its CUDA extensions",
            "build NVIDIA's from its sources, or leave --optimizer apex out",
        )
    import torch

    from fastait.training.optimizer import make_optimizer

    parameter = torch.nn.Parameter(torch.ones(4, device=setup.device))
    optimizer = make_optimizer("apex", [parameter], lr=0.5, weight_decay=0.0)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    if not bool((parameter == 0.5).all()):
        return wrong(f"FusedSGD made {parameter.tolist()} of ones where 0.5 is right", "build NVIDIA's apex anew")
    return ok("FusedSGD steps as it should")


def fits(have: str, wanted: str) -> bool:
    """Whether version ``have`` is one of ``wanted``, such as ``>=2.13,<3`` or ``~=3.8.0``; what is not understood is
    taken to fit."""
    release = _numbers(have)
    return all(_fits_one(release, part.strip()) for part in wanted.split(",") if part.strip())


def _fits_one(release: tuple[int, ...], part: str) -> bool:
    match = re.match(r"(==|!=|>=|<=|~=|>|<)\s*([\w.*+!]+)$", part)
    if match is None:
        return True
    sign, text = match.groups()
    wanted = _numbers(text)
    if text.endswith(".*"):
        equal = release[: len(wanted)] == wanted
        return equal if sign == "==" else not equal
    if sign == "~=":
        return release[: len(wanted) - 1] == wanted[:-1] and release >= wanted
    length = max(len(release), len(wanted))
    a, b = (numbers + (0,) * (length - len(numbers)) for numbers in (release, wanted))
    compare = {"==": operator.eq, "!=": operator.ne, ">=": operator.ge, "<=": operator.le}
    return {**compare, ">": operator.gt, "<": operator.lt}[sign](a, b)


def _numbers(version: str) -> tuple[int, ...]:
    """The release alone: 2.14.1 of 2.14.1+cu130 and of 2.14.1rc2."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def _requirements(owner: str) -> Iterator[tuple[str, str]]:
    """(name, versions) that ``owner`` asks for: those that it always needs, and of ours the extras' too."""
    try:
        lines = importlib.metadata.requires(owner) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for line in dict.fromkeys(lines):
        requirement, _, marker = line.partition(";")
        match = re.match(r"\s*([\w.-]+)(?:\[[^]]*\])?\s*\(?([^)]*)\)?\s*$", requirement)
        if match is None or ("extra" in marker and owner != "fastait"):
            continue
        if match[2]:
            yield match[1], match[2].replace(" ", "")
