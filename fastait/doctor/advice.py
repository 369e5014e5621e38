"""With which flags to train here, by what was found to work."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastait.doctor.findings import OK, WRONG, Finding

WORKERS = 2


@dataclass(frozen=True)
class Advice:
    """What to add to ``fastait train``.

    Attributes:
        flags: always.
        long_runs: where a minute or two before the first step do not count.
        large_sets: where a set does not fit in memory and is not kept there.
        launcher: what stands before, to use all GPUs of the machine; empty with one or none.
    """

    flags: tuple[str, ...]
    long_runs: tuple[str, ...]
    large_sets: tuple[str, ...]
    launcher: tuple[str, ...]

    def lines(self) -> list[str]:
        """As the command ends with them."""
        train = " ".join(("fastait train", *self.flags))
        found = [f"Train with: {train}"]
        if self.long_runs:
            found.append(f"  {' '.join(self.long_runs)} too, for runs of more than some minutes")
        if self.large_sets:
            found.append(f"  {' '.join(self.large_sets)} too, for sets that do not fit in memory")
        if self.launcher:
            found.append(f"  {' '.join(self.launcher)} -m {train} --out RUN, on all GPUs of this machine")
        return found


def advise(findings: Mapping[str, Finding], facts: Mapping[str, Any]) -> Advice:
    """What follows from the checks by their names, and from the facts of ``machine``."""

    def works(name: str) -> bool:
        return name in findings and findings[name].status == OK

    def fails(name: str) -> bool:
        return name in findings and findings[name].status == WRONG

    gpus = len(facts.get("gpus", ()))
    on_gpu = str(facts.get("device", "")).startswith("cuda")
    flags: list[str] = []
    if on_gpu and (fails("gpu") or fails("driver")):
        flags += ["--device", "cpu"]
        on_gpu = False
    # A measurement that went wrong says nothing against 16 bits.
    if works("amp") and (findings["training"].facts.get("amp_pays", True) if "training" in findings else True):
        flags.append("--amp")
    if on_gpu and fails("graph"):
        flags += ["--cuda-graph", "off"]
    several = on_gpu and gpus > 1 and works("processes")
    return Advice(
        flags=tuple(flags),
        long_runs=("--compile",) if works("compile") else (),
        large_sets=("--dali",) if works("dali") else ("--workers", str(WORKERS)) if works("workers") else (),
        launcher=("torchrun", "--nproc-per-node", str(gpus)) if several else (),
    )
