"""A step whose numbers went wrong: how it is said, and how it is written down."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastait.checkpoints.folder import RunFolder
from fastait.runtime.errors import InputError, RunError, one_line
from fastait.training.bad_numbers import KINDS, Number


@dataclass(frozen=True)
class Failure:
    """The first step of a run in which a number became NaN or infinite.

    Attributes:
        step, epoch: counted from 1.
        kind, name: of ``bad_numbers.Number``, what became so first.
    """

    step: int
    epoch: int
    kind: str
    name: str

    @classmethod
    def of(cls, step: int, number: Number, steps_per_epoch: int) -> "Failure":
        """In global step ``step``, counted from 0."""
        return cls(step + 1, step // steps_per_epoch + 1, *number)

    def __str__(self) -> str:
        what = KINDS[self.kind].format(name=self.name)
        return one_line(f"{what} became NaN or infinite at step {self.step} (epoch {self.epoch})")


def failed(failure: Failure, folder: RunFolder, lr: float) -> RunError:
    """What to end with, after writing ``failure`` down in the run's folder; ``lr`` is the run's highest rate."""
    kept, again = folder.checkpoint_file, f"; fastait train --resume {folder.path} --replay-failure shows that step"
    try:
        folder.save_failure(asdict(failure))
    except RunError:  # what went wrong first is what is said
        again = ""
    return RunError(
        f"{failure}; "
        + (f"the last good checkpoint is kept in {kept}" if kept.exists() else "there is no checkpoint before it")
        + f"; a smaller --lr than {lr:g}, or --clip-grad-norm, may help{again}"
    )


def read_failure(folder: RunFolder) -> Failure:
    """What was written down of the run in ``folder``.

    Raises:
        InputError: nothing was, or it is damaged.
    """
    found = folder.failure()
    if found is None:
        raise InputError(
            f"--replay-failure: no step of the run in {folder.path} has failed (no {folder.failure_file.name})"
        )
    return _checked(found, folder.failure_file)


def _checked(found: Any, file: Path) -> Failure:
    types = {"step": int, "epoch": int, "kind": str, "name": str}
    if (
        not isinstance(found, dict)
        or found.keys() != types.keys()
        or any(type(found[key]) is not kind for key, kind in types.items())
        or found["kind"] not in KINDS
        or found["step"] < 1
    ):
        raise InputError(f"{file} is damaged: it must hold {', '.join(types)} of a step; go on by --resume alone")
    return Failure(**found)
