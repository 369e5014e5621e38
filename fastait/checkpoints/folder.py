"""The folder of a run: everything the run writes, each file written whole or not at all."""

import errno
import fcntl
import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from fastait.checkpoints import checkpoint
from fastait.checkpoints.weights import About, class_names, load_weights, packed
from fastait.config import BESIDE, CLASSES, NORMALIZATION, TrainConfig
from fastait.runtime.errors import InputError, RunError
from fastait.runtime.files import PARTIAL, json_of, write_whole

CHECKPOINT = "checkpoint.pt"
"""The last one."""

WEIGHTS = {
    "last": "model.safetensors",
    "best": "best.safetensors",
    "ema": "ema.safetensors",
    "before-collapse": "before-collapse.safetensors",
}
"""Files of weights that a run may write: of the last epoch, of the best one, averaged over all steps, and of the epoch
before its training collapsed."""


class RunFolder:
    """``config.json``, ``metrics.jsonl``, ``checkpoint.pt``, files of ``WEIGHTS`` and ``result.json`` of one run, and
    ``failure.json`` where a step of it failed.

    Args:
        path: the folder.
        writes: whether what is saved is written; one of several processes of a run writes.
    """

    def __init__(self, path: Path, *, writes: bool = True):
        self.path = path
        self.writes = writes
        self.config_file = path / "config.json"
        self.metrics_file = path / "metrics.jsonl"
        self.checkpoint_file = path / CHECKPOINT
        self.weights_file = path / WEIGHTS["last"]
        self.result_file = path / "result.json"
        self.failure_file = path / "failure.json"
        self._lock: io.IOBase | None = None

    @classmethod
    def new(cls, path: Path) -> "RunFolder":
        """A folder for a new run; nothing is written before ``begin``.

        Raises:
            InputError: it holds files already, or cannot be read.
        """
        folder = cls(path)
        folder._refuse_used()
        return folder

    def begin(self, config: TrainConfig, about: About | None = None) -> None:
        """Make the folder, lock it and write the run's settings, and what is known of its network's classes and inputs.

        Raises:
            InputError: it cannot be made, or another run has been begun in it meanwhile.
            RunError: the settings cannot be written; the folder is as it was.
        """
        beside = {} if about is None else {CLASSES: about.classes, NORMALIZATION: about.normalization}
        self._begin(_json(config.to_json() | beside))

    def continue_from(self, other: "RunFolder", config: TrainConfig) -> None:
        """``begin``, with a copy of what ``other`` has come to.

        Raises:
            As ``begin``.
        """
        self._begin(_json(config.to_json() | other._beside()), other)

    def _begin(self, settings: bytes, other: "RunFolder | None" = None) -> None:
        new = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--out {self.path} cannot be made: {error.strerror}") from None
        self.lock()
        self._refuse_used()
        files = [] if other is None else [file.name for file in other._progress() if file.exists()]
        try:
            for name in files:
                _copy(cast(RunFolder, other).path / name, self.path / name)
            write_whole(self.config_file, settings)  # the last one: before it there is no run here
        except BaseException:
            with suppress(OSError):
                for name in (*files, _LOCK):
                    (self.path / name).unlink(missing_ok=True)
                if new:
                    self.path.rmdir()
            raise

    def _progress(self) -> list[Path]:
        """What a run writes besides its settings, the checkpoint first."""
        weights = [self.path / name for name in WEIGHTS.values()]
        earlier = sorted(self.path.glob(f"{self.checkpoint_file.stem}-*{self.checkpoint_file.suffix}"))
        return [self.checkpoint_file, *earlier, self.metrics_file, *weights, self.result_file]

    def wrote(self, path: Path) -> bool:
        """Whether ``path`` is called as what a run writes of its network."""
        own = path.parent == self.path
        return own and (path.name in WEIGHTS.values() or path.name == self.checkpoint_file.name)

    @classmethod
    def existing(cls, path: Path) -> "RunFolder":
        """The folder of a run that was begun.

        Raises:
            InputError: there is no run in it.
        """
        folder = cls(path)
        if not cls.begun(path):
            raise InputError(f"--resume {path}: no run there (no {folder.config_file.name})")
        return folder

    @classmethod
    def begun(cls, path: Path) -> bool:
        """Whether there is a run in ``path``.

        Raises:
            InputError: it cannot be read.
        """
        try:
            return cls(path).config_file.is_file()
        except OSError as error:
            raise InputError(f"--resume {path} cannot be read: {error.strerror}") from None

    def lock(self) -> None:
        """Keep other processes from training in this folder, until it is left or this process ends.

        A file system that has no locks keeps nobody.

        Raises:
            InputError: another process does, or the folder cannot be written.
        """
        try:
            handle = open(self.path / _LOCK, "w")  # noqa: SIM115
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}") from None
        try:
            # Unlike flock, this is not inherited by the loader's worker processes, which may outlive a killed run.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                handle.close()
                raise InputError(f"{self.path}: another process is training in this folder") from None
        self._lock = handle

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _refuse_used(self) -> None:
        path = self.path
        try:
            if not path.exists():
                return
            if not path.is_dir():
                raise InputError(f"--out {path} is a file, not a folder")
            # What a run leaves that was killed while it began does not count.
            used = any(entry.name != _LOCK and entry.suffix != PARTIAL for entry in path.iterdir())
        except OSError as error:
            raise InputError(f"--out {path} cannot be used: {error.strerror}") from None
        if used:
            what = f"another run; go on with it by --resume {path}" if self.config_file.exists() else "other files"
            raise InputError(f"--out {path} already holds {what}, or choose a new folder")

    def config(self) -> TrainConfig:
        """The run's settings.

        Raises:
            InputError: ``config.json`` is damaged, or has settings that this version does not know.
        """
        try:
            saved = json_of(self.config_file.read_bytes())
            config = TrainConfig.from_json(saved)
            config.check()
            if CLASSES in saved:
                class_names(saved[CLASSES])
        except (OSError, ValueError) as error:
            raise InputError(f"{self.config_file} is no configuration of a run: {error}") from None
        return config

    def defaults(self) -> dict[str, Any]:
        """The settings that ``config.json`` does not have, with what stands for them."""
        saved, config = json_of(self.config_file.read_bytes()), self.config()
        known = {*saved, "model"} if "depth" in saved else saved  # which said what network it is, before that did
        return {key: value for key, value in config.to_json().items() if key not in known}

    def classes(self) -> tuple[str, ...] | None:
        """The names of the run's classes, in order; None if it was begun by a version that did not write them."""
        return tuple(self._beside()[CLASSES]) if CLASSES in self._beside() else None

    def change(self, config: TrainConfig) -> None:
        """Write the settings that the run goes on with.

        Raises:
            RunError: they cannot be written; what was there is unharmed.
        """
        if self.writes:
            write_whole(self.config_file, _json(config.to_json() | self._beside()))

    def _beside(self) -> dict[str, Any]:
        """What ``config.json`` holds beside the settings."""
        saved = json_of(self.config_file.read_bytes())
        return {key: saved[key] for key in BESIDE if key in saved}

    def save_checkpoint(self, state: dict[str, Any], keep: int = 1) -> None:
        """Write a checkpoint, of tensors, numbers, strings, lists and dicts only: see ``checkpoint.save``."""
        if self.writes:
            checkpoint.save(self.checkpoint_file, state, keep)

    def load_checkpoint(self, note: Callable[[str], None] = lambda text: None) -> dict[str, Any] | None:
        """The last checkpoint that is whole, on the CPU; None if the run had not come to one. See ``checkpoint.load``.

        Raises:
            InputError: all there are are damaged.
        """
        return checkpoint.load(self.checkpoint_file, note)

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """One JSON object per finished epoch, the whole file."""
        if self.writes:
            write_whole(self.metrics_file, "".join(json.dumps(epoch) + "\n" for epoch in history).encode())

    def save_weights(self, weights: dict[str, Tensor], about: About, which: str = "last") -> None:
        """A state dict of the network as safetensors; ``which`` is a key of ``WEIGHTS``."""
        if self.writes:
            write_whole(self.path / WEIGHTS[which], packed(weights, about))

    def save_result(self, result: dict[str, Any]) -> None:
        """The finished run's figures."""
        if self.writes:
            write_whole(self.result_file, _json(result))

    def result(self) -> dict[str, Any] | None:
        """What the finished run says of itself, None if it is not finished.

        Raises:
            InputError: ``result.json`` is damaged.
        """
        try:
            if not self.result_file.exists():
                return None
            result = json_of(self.result_file.read_bytes())
            if not isinstance(result, dict):
                raise ValueError("it holds no object")
        except (OSError, ValueError) as error:
            raise InputError(f"{self.result_file} is damaged: {error}; move it away to evaluate again") from None
        return result

    def figures(self) -> dict[str, Any] | None:
        """``result``, where it has all that is shown at the end of a run.

        Raises:
            InputError: ``result.json`` is damaged, or lacks some of it.
        """
        if (result := self.result()) is not None and (wrong := _not_shown(result)):
            raise InputError(f"{self.result_file} is damaged: {wrong}; move it away to evaluate again")
        return result

    def save_failure(self, failure: dict[str, Any]) -> None:
        """Which step failed, and in what."""
        if self.writes:
            write_whole(self.failure_file, _json(failure))

    def failure(self) -> Any:
        """What ``save_failure`` has written last, unchecked; None if no step has failed.

        Raises:
            InputError: ``failure.json`` is damaged or cannot be read.
        """
        try:
            return json_of(self.failure_file.read_bytes()) if self.failure_file.exists() else None
        except (OSError, ValueError) as error:
            raise InputError(f"{self.failure_file} is damaged: {error}; go on by --resume alone") from None

    def weights(self) -> dict[str, Tensor]:
        """The finished run's state dict.

        Raises:
            InputError: ``model.safetensors`` is missing or damaged.
        """
        return load_weights(self.weights_file)


_LOCK = ".lock"

_ACCURACIES = ("clean", "fgsm", "pgd20", "cw20")
_LARGEST = 1e11
"""What is larger is no figure of a run."""


def _not_shown(result: dict[str, Any]) -> str:
    """What a finished run's figures lack, in a few words; nothing where they lack nothing."""
    shown = {name: result.get(name) for name in ("test_images", "epsilon", *_ACCURACIES)}
    for which in ("best", "ema"):
        if isinstance(result.get(which), dict):
            shown |= {f"{name} of {which}": result[which].get(name) for name in _ACCURACIES}
    for name, value in shown.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= _LARGEST:
            return f"{name} is {value!r:.40}"
    texts = ("method", "dataset")
    return next((f"{name} is {result.get(name)!r:.40}" for name in texts if not isinstance(result.get(name), str)), "")


def _copy(source: Path, target: Path) -> None:
    try:
        data = source.read_bytes()
    except OSError as error:
        raise RunError(f"{source} could not be read: {error.strerror}") from None
    write_whole(target, data)


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
