"""Whether the installed packages fit each other, by what they say of themselves, and can be imported."""

import importlib.metadata
import importlib.util
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
    """Whether version ``have`` is one of ``wanted``, such as ``>=2.13,<3`` or ``~=3.8.0``.

    What comes before a release, 2.14.1rc2 or a nightly build, is taken for the release too; what is not understood is
    taken to fit.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        versions, installed = SpecifierSet(wanted), Version(have)
    except (InvalidSpecifier, InvalidVersion):
        return True
    return any(versions.contains(v, prereleases=True) for v in (installed, installed.base_version))


def _requirements(owner: str) -> Iterator[tuple[str, str]]:
    """(name, versions) that ``owner`` asks for here: those that it always needs, and of ours the extras' too."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        about = importlib.metadata.metadata(owner)
    except importlib.metadata.PackageNotFoundError:
        return
    extras = ["", *(about.get_all("Provides-Extra") or [] if owner == "fastait" else [])]
    for line in about.get_all("Requires-Dist") or []:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        marker = requirement.marker
        if requirement.specifier and (marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)):
            yield requirement.name, str(requirement.specifier)
