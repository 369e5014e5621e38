"""Random damage to every file that is read: what carries a checksum is the true state or refused, the rest one line."""

import io
import itertools
import json
import time
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import parquet_tables
import torch
from damage import damages
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from fastait import recipe, run_training
from fastait.checkpoints.folder import RunFolder
from fastait.checkpoints.weights import read_weights
from fastait.data import load_dataset
from fastait.eval import main as evaluate
from fastait.evaluation.journal import FileJournal, Recorded
from fastait.evaluation.kept import FOLDER, InFolder
from fastait.evaluation.model_files import read_model
from fastait.models import make
from fastait.report.__main__ import main as report
from fastait.report.eval_files import read_evaluation
from fastait.report.run_files import read_run
from fastait.runtime.errors import InputError
from fastait.train import main as train

SHORT = 20
"""Of how many damages of the long form the short one has one."""

SUMMED = {
    "checkpoints": 500,
    "our weights": 500,
    "caches": 300,
    "journal lines": 400,
    "kept images": 150,
    "outcomes and examples": 150,
}
"""How often files that carry a checksum are damaged."""

OTHERS = {
    "other people's weights": 440,
    "metrics": 100,
    "configs": 120,
    "results": 100,
    "eval.json": 120,
    "parquet": 125,
    "images": 125,
}
"""And the others."""


class Wrong(Exception):
    """What must not be; its text says what."""


def same(a: Any, b: Any) -> bool:
    """Whether two states are one, to the bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def refused(error: InputError, path: Path) -> None:
    """The line of a refusal names the file."""
    if path.name not in str(error):
        raise Wrong(f"the line does not name {path.name}: {error}")


def command(main, *argv: object, names: str) -> None:
    """A command ends with 0, or with one line that names the file and 1 or 2."""
    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(io.StringIO()):
        code = main([str(argument) for argument in argv])
    lines = [line for line in said.getvalue().splitlines() if ": error: " in line]
    if code not in (0, 1, 2) or (code and (len(lines) != 1 or names not in lines[0])):
        raise Wrong(f"exit code {code}, {said.getvalue()[-300:]!r}")


@dataclass
class Files:
    """What is damaged, as it was written.

    Attributes:
        run: a finished run.
        out: an evaluation of it.
        folder: where whatever else lies.
    """

    run: Path
    out: Path
    folder: Path


def files_in(folder: Path) -> Files:
    """What lies in ``folder`` once it is ``written``."""
    return Files(folder / "run", folder / "eval", folder)


def written(folder: Path) -> Files:
    """A run, its evaluation, a set of images with its cache, files of others."""
    files = files_in(folder)
    run, out = files.run, files.out
    settings = {"image_size": 8, "epochs": 2, "eval_samples": 10, "device": "cpu", "method": "natural"}
    run_training(recipe("digits", **settings, out=run, batch_size=256, val_fraction=0.02, ema=0.9))
    argv = [run, "--device", "cpu", "--attacks", "fgsm,pgd2", "--samples", "30", "--batch-size", "6"]
    command(evaluate, *argv, "--save-images", "--out", out, names="")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 12, 3), dtype=np.uint8)
    for number, suffix in enumerate(("png", "jpg", "gif", "bmp", "webp", "tiff")):
        for split in ("train", "test"):
            for kind in range(2):
                path = folder / "images" / split / "ab"[kind] / f"{number}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels[number + kind]).save(path)
    tables = [parquet_tables.table([0, 1, 0, 1, 1, 0], names=["cat", "dog"])]
    parquet_tables.write(folder / "parquet", tables, tables)
    state = make("wrn-10-1", 10, generator_seed=0).state_dict()
    others = folder / "others"
    others.mkdir()
    torch.save({"state_dict": {"module." + name: value for name, value in state.items()}}, others / "zip.pt")
    torch.save({"net": state, "acc": np.float64(90.0)}, others / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"model": state, "epoch": 3, "optimizer": {"state": [], "lr": 0.1}}, others / "library.tar")
    save_file(state, others / "plain.safetensors", {"made by": "another program"})
    return files


def checkpoints(files: Files, count: int):
    folder = RunFolder(files.run)
    last, before = files.run / "checkpoint.pt", files.run / "checkpoint-1.pt"
    first = folder.load_checkpoint()
    second = {**first, "step": first["step"] + 1, "model": {name: -value for name, value in first["model"].items()}}
    folder.save_checkpoint(second, keep=2)
    older = before.read_bytes()

    def check(path: Path) -> None:
        notes: list[str] = []
        found = folder.load_checkpoint(notes.append)
        if same(found, second):
            return
        if not same(found, first) or len(notes) != 1 or path.name not in notes[0]:
            raise Wrong("another state than the last or the one before, or none was said to be damaged")

    def check_alone(path: Path) -> None:
        before.write_bytes(older[: len(older) // 2])
        try:
            if not same(folder.load_checkpoint(), second):
                raise Wrong("a wrong state was loaded")
        except InputError as error:
            refused(error, path)
        finally:
            before.write_bytes(older)

    half = count // 2
    yield last, half, check
    yield last, count - half, check_alone


def our_weights(files: Files, count: int):
    paths = [files.run / name for name in ("model.safetensors", "best.safetensors", "ema.safetensors")]
    for i, path in enumerate(paths):
        truth = read_weights(path)

        def check(path: Path, truth=truth) -> None:
            try:
                weights, about = read_weights(path)
                if not same(weights, truth[0]) or (about != truth[1]):
                    raise Wrong("wrong weights were loaded, or what is said of them")
            except InputError as error:
                refused(error, path)

        yield path, count // 3 + (i < count % 3), check


def caches(files: Files, count: int):
    root = files.folder / "images"
    truth = load_dataset("folder", root, 8)
    paths = sorted((root / ".fastait-cache").rglob("train-8px.*"))

    def check(path: Path) -> None:
        found = load_dataset("folder", root, 8)
        if found.checksum != truth.checksum or not torch.equal(found.train.images, truth.train.images):
            raise Wrong("other images")
        if found.classes != truth.classes or not torch.equal(found.train.labels, truth.train.labels):
            raise Wrong("other classes")

    for i, path in enumerate(paths):
        yield path, count // len(paths) + (i < count % len(paths)), check


def journal_lines(files: Files, count: int):
    path = files.out / "progress-0.jsonl"
    units = {json.dumps(unit): found for unit, found in _recorded(files.out)}
    with closing(FileJournal(files.out)) as journal:
        sums = {key: journal.sums(json.loads(key)) for key in units}

    def check(path: Path) -> None:
        for unit, found in _recorded(path.parent):
            if any(finding not in units.get(json.dumps(unit), []) for finding in found):
                raise Wrong(f"a line that was never written: {unit}")
        with closing(FileJournal(path.parent)) as journal:
            for key, written_down in sums.items():
                if any(numbers not in written_down for numbers in journal.sums(json.loads(key))):
                    raise Wrong("sums that were never written")

    yield path, count, check


def _recorded(folder: Path):
    recorded = Recorded(folder)
    recorded.read()
    return recorded.units()


def kept_images(files: Files, count: int):
    paths = sorted((files.out / FOLDER).iterdir())
    store = InFolder(files.out, 0, {}, None)
    store._key = paths[0].name.split("-")[0]  # of the evaluation, whatever it was of
    names = list(store.places())
    truth = {name: _by_place(store.get(name)) for name in names}

    def check(path: Path) -> None:
        fresh = InFolder(files.out, 0, {}, None)
        fresh._key = store._key
        for name in {*names, *fresh.places()}:
            places, images = fresh.get(name)
            if any(
                not same(image, truth.get(name, {}).get(place)) for place, image in _by_place((places, images)).items()
            ):
                raise Wrong(f"another image of {name}")

    for i, path in enumerate(paths):
        yield path, count // len(paths) + (i < count % len(paths)), check


def _by_place(found: tuple[Tensor, Tensor]) -> dict[int, Tensor]:
    return dict(zip(found[0].tolist(), found[1], strict=True))


def outcomes_and_examples(files: Files, count: int):
    truth = read_evaluation(files.out, "e")

    def check(path: Path) -> None:
        found = read_evaluation(files.out, "e")
        if found.gaps:
            if path.name not in found.gaps[0].what:
                raise Wrong(f"the gap does not name {path.name}: {found.gaps}")
            return
        for a, b in zip(found.evaluations, truth.evaluations, strict=True):
            if not same(a.outcomes.classes, b.outcomes.classes) or not same(a.outcomes.losses, b.outcomes.losses):
                raise Wrong("other outcomes")
        for one, other in zip(found.examples, truth.examples, strict=True):
            if (one is None) != (other is None) or not same(vars(one), vars(other)):
                raise Wrong("other examples")

    for name, share in (("outcomes.safetensors", count // 2), ("examples.safetensors", count - count // 2)):
        yield files.out / name, share, check


def others_weights(files: Files, count: int):
    paths = sorted((files.folder / "others").iterdir())

    def check(path: Path) -> None:
        try:
            read_model(path, "wrn-10-1")
        except InputError as error:
            refused(error, path)

    for i, path in enumerate(paths):
        yield path, count // len(paths) + (i < count % len(paths)), check


def metrics(files: Files, count: int):
    def check(path: Path) -> None:
        run = read_run(files.run, "r")
        if len(run.epochs) < 2 and not run.gaps:
            raise Wrong("an epoch is missing and nothing is said")

    yield files.run / "metrics.jsonl", count, check


def configs(files: Files, count: int):
    def check(path: Path) -> None:
        read_run(files.run, "r")
        try:
            read_model(files.run)
        except InputError as error:
            refused(error, path)
        command(train, "--resume", files.run, names=path.name)

    yield files.run / "config.json", count, check


def results(files: Files, count: int):
    def check(path: Path) -> None:
        command(train, "--resume", files.run, names=path.name)

    yield files.run / "result.json", count, check


def eval_json(files: Files, count: int):
    page, tried = files.folder / "report.html", itertools.count()

    def check(path: Path) -> None:
        read_evaluation(files.out, "e")
        if next(tried) % 6 == 0:  # a page takes as long as all the rest
            command(report, files.run, "--eval", files.out, "--out", page, names=path.name)

    yield files.out / "eval.json", count, check


def parquet(files: Files, count: int):
    yield files.folder / "parquet" / "train.parquet", count, _loads("parquet", files.folder / "parquet")


def images(files: Files, count: int):
    paths = sorted((files.folder / "images" / "train" / "a").iterdir())
    for i, path in enumerate(paths):
        yield path, count // len(paths) + (i < count % len(paths)), _loads("folder", files.folder / "images")


def _loads(kind: str, root: Path):
    def check(path: Path) -> None:
        try:
            load_dataset(kind, root, 8)
        except InputError as error:
            refused(error, path)

    return check


PARTS = {
    "checkpoints": checkpoints,
    "our weights": our_weights,
    "caches": caches,
    "journal lines": journal_lines,
    "kept images": kept_images,
    "outcomes and examples": outcomes_and_examples,
    "other people's weights": others_weights,
    "metrics": metrics,
    "configs": configs,
    "results": results,
    "eval.json": eval_json,
    "parquet": parquet,
    "images": images,
}


def damaged(what: str, count: int, files: Files) -> tuple[int, list[str]]:
    """Damage the files of a part ``count`` times in all, one after the other.

    Returns:
        (how many times it was, a line for each that did harm). The files are whole again.
    """
    done, failures = 0, []
    for path, share, check in PARTS[what](files, count):
        whole = path.read_bytes()
        for number, (kind, data) in enumerate(damages(whole, share, f"{what} {path.name}")):
            path.write_bytes(data)
            try:
                check(path)
            except Exception as error:
                failures.append(f"{path.name}, {kind}, damage {number}: {type(error).__name__}: {error}"[:300])
            done += 1
        path.write_bytes(whole)
    return done, failures


def main(short: bool, folder: Path) -> dict:
    """Damage everything; see ``run.py`` for what is returned."""
    files = written(folder)
    counts: dict[str, int] = {}
    failures: list[str] = []
    seconds: dict[str, float] = {}
    for what, count in {**SUMMED, **OTHERS}.items():
        began = time.process_time()
        counts[what], wrong = damaged(what, -(-count // SHORT) if short else count, files)
        failures += wrong
        seconds[what] = round(time.process_time() - began, 1)
        print(f"corruption: {what}, {counts[what]} damaged, {seconds[what]} s", flush=True)
    return {"counts": counts, "failures": failures, "notes": {"CPU seconds": seconds}}
