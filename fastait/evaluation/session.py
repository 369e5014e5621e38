"""An evaluation from its arguments to its files: what ``fastait eval`` does."""

from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastait.attacks import RandomSignNoise
from fastait.attacks.columns import parse, parse_all
from fastait.attacks.stages import stages
from fastait.checkpoints.classes import are_numbers
from fastait.config import flag, parquet_settings
from fastait.data import Dataset, ImageSet, load_dataset
from fastait.eval_config import EvalArguments
from fastait.evaluation.batches import share
from fastait.evaluation.details import (
    EXAMPLES,
    EXAMPLES_FILE,
    OUTCOMES_FILE,
    Source,
    write_examples,
    write_images,
    write_outcomes,
)
from fastait.evaluation.determinism import deterministic
from fastait.evaluation.entrants import Entrant, make_entrant
from fastait.evaluation.evaluate import evaluate, units
from fastait.evaluation.given import names_of, places_stated, read_all
from fastait.evaluation.journal import FileJournal, images_checksum
from fastait.evaluation.kept import InFolder
from fastait.evaluation.masking import Check, as_rows, masking_report
from fastait.evaluation.model_files import IMAGE_SIZE, Loaded
from fastait.evaluation.normalization import forced
from fastait.evaluation.outcomes import CLEAN, Outcomes
from fastait.evaluation.progress import Effort, costs
from fastait.evaluation.results import FILE, Evaluation, as_csv, as_json, columns_of, markdown, show
from fastait.evaluation.robustbench import export_robustbench, robustbench_class
from fastait.runtime.errors import FastaitError, InputError, Interrupted, RunError, SaidElsewhere, first_line
from fastait.runtime.files import write_text
from fastait.runtime.hardware import environment
from fastait.runtime.memory import said_with
from fastait.runtime.precision import current, resolve_device
from fastait.runtime.processes import Ranks, join, lost_another
from fastait.runtime.report import Report, epsilon_text
from fastait.runtime.signals import StopRequest
from fastait.runtime.version import __version__

MASKING_IMAGES = 100

PATIENCE = timedelta(days=7)
"""How long processes wait for one that has more to do; one that has died is noticed at once."""

AT_LEISURE = 1.0
"""Seconds that a signal waits for the next pass before it interrupts what there is instead: a compilation, images that
are read."""


def run_evaluation(arguments: EvalArguments, *, show: bool = True) -> list[Evaluation]:
    """Measure what ``arguments`` ask for, write it into their folder and show it.

    Under torchrun, one of the processes that share the batches.

    Raises:
        InputError: a model, the data set or an attack is not what it must be; found before anything is measured.
        Interrupted: a signal asked for an end (``runtime.signals``); finished batches are not measured again.
    """
    arguments.check()
    out = arguments.out or Path("evals") / f"{datetime.now():%Y%m%d-%H%M%S-%f}"
    with (
        join(arguments.device, timeout=PATIENCE) as (ranks, device),
        current(resolve_device(device)),
        deterministic(arguments.deterministic),
        StopRequest(AT_LEISURE) as stop,
        said_with(f"finished batches are kept, go on with the same command and --out {out}, or take another --device"),
    ):
        report = Report(show and ranks.first)
        try:
            try:
                session = _Session(arguments, out, ranks, resolve_device(device), report, stop)
            except FastaitError as error:  # which every process finds by itself
                ranks.largest(error.exit_code)
                raise error if ranks.first else SaidElsewhere(error.exit_code) from None
            ranks.largest(0)
            return session.run()
        except (KeyboardInterrupt, RuntimeError) as error:
            gone = lost_another(error)
            # A process that waits for another hears its signal when that one has gone, by the same signal most often.
            if stop.number is not None and (gone or isinstance(error, KeyboardInterrupt)):
                raise _stopped(stop.number, out, ranks) from None
            if gone:
                raise RunError(
                    f"another process of this evaluation is gone ({first_line(error)}); finished batches are kept, go "
                    f"on with the same command and --out {out}"
                ) from None
            raise
        finally:
            report.finish()


def _stopped(number: int, out: Path, ranks: Ranks) -> FastaitError:
    if not ranks.first:
        return SaidElsewhere(128 + number)
    return Interrupted(f"stopped; finished batches are kept, go on with the same command and --out {out}", number)


class _Session:
    def __init__(
        self,
        arguments: EvalArguments,
        out: Path,
        ranks: Ranks,
        device: torch.device,
        report: Report,
        stop: StopRequest,
    ):
        self.arguments = arguments
        self.out = out
        self.ranks = ranks
        self.device = device
        self.report = report
        self.stop = stop
        columns = parse_all(arguments.names())
        self.asked = forced(arguments.inputs, arguments.mean, arguments.std)
        paths = [*arguments.models, *([arguments.surrogate] if arguments.surrogate else [])]
        self.loaded = read_all(paths, arguments.model, arguments.image_size)
        self.configs = [loaded.config for loaded in self.loaded]
        self.names = names_of(arguments.models)
        self.dataset = self._dataset()
        self.images = self._images(self.dataset)
        self.entrants = [self._entrant(loaded) for loaded in self.loaded]
        self.surrogate = self.entrants.pop() if arguments.surrogate else None
        if self.surrogate is None and any(column.needs_surrogate for column in columns):
            raise InputError("transfer attacks need the model that they are made on: --surrogate RUN")
        for column in columns:
            if column.in_stages:
                stages(column, min(entrant.outputs for entrant in self.entrants))
        if arguments.export == "robustbench":
            for entrant in self.entrants:
                robustbench_class(entrant.normalized, f"{entrant.path} ({entrant.network})")
        self.note = cache(lambda text: report.note(f"warning: {text}"))  # once, if several evaluations say the same

    def _entrant(self, loaded: Loaded) -> Entrant:
        kind = self.arguments.dataset or self.configs[0].get("dataset")
        return make_entrant(
            loaded,
            self.dataset.classes,
            numbered=kind == "parquet" and are_numbers(self.dataset.classes),
            asked=self.asked,
            images=self.dataset.test,
            device=self.device,
            ranks=self.ranks,
        )

    def _dataset(self) -> Dataset:
        given, config = self.arguments, self.configs[0]
        sizes = [one.image_size for one in self.loaded if one.image_size is not None]
        for key, said in (("dataset", [other.get("dataset") for other in self.configs]), ("image_size", sizes)):
            trained = sorted({str(value) for value in said if value is not None})
            if getattr(given, key) is None and len(trained) > 1:
                raise InputError(
                    f"the models were trained on different data ({', '.join(trained)}); choose by {flag(key)}"
                )
        name = given.dataset or config.get("dataset")
        if name is None:
            raise InputError(f"{given.models[0]} does not say what it was trained on: --dataset NAME")
        data_dir = given.data_dir
        cache_dir = given.cache_dir
        if data_dir is None and config.get("data_dir") and name == config["dataset"]:
            data_dir, cached = places_stated(config, f"the run of {given.models[0]}", self.report.note)
            cache_dir = cache_dir or cached
        layout = parquet_settings(given)
        if name == config.get("dataset"):
            layout = {key: config.get(key) if value is None else value for key, value in layout.items()}
        skip_bad = given.skip_bad_images
        if skip_bad is None:
            skip_bad = bool(config.get("skip_bad_images", False))
        with self.ranks.one_by_one():
            dataset = load_dataset(
                name,
                data_dir,
                given.image_size or next(iter(sizes), IMAGE_SIZE),
                skip_bad=skip_bad,
                needs_train=False,
                **layout,
                cache_dir=cache_dir,
                note=self.report.note,
            )
        if dataset.skipped:
            self.report.note(
                f"warning: {len(dataset.skipped)} images are bad and left out; the first: {dataset.skipped[0]}"
            )
        return dataset

    def _images(self, dataset: Dataset) -> ImageSet:
        samples = self.arguments.samples
        if samples is None:
            return dataset.test
        if samples > len(dataset.test):
            raise InputError(f"--samples {samples} is more than the {len(dataset.test)} test images")
        return dataset.test.stratified(samples)

    def run(self) -> list[Evaluation]:
        """Everything that is asked for."""
        arguments = self.arguments
        journal = self._journal()
        for name, one in zip(self.names, self.entrants, strict=True):
            self._say(name, one)
        if self.surrogate is not None:
            self._say("the surrogate", self.surrogate)
        names = arguments.names()
        work = self._work(names)
        total = sum(units(len(images), attacks, self.ranks) for images, attacks, _ in work)
        total *= len(self.entrants) * len(arguments.epsilon)
        done = 0
        effort = Effort(
            [
                sum(costs(parse_all(attacks), one.outputs)) * len(share(len(images), self.ranks))
                for one in self.entrants
                for _ in arguments.epsilon
                for images, attacks, _ in work
            ]
        )
        found: list[Evaluation] = []
        sources: list[dict[str, Source]] = []
        masking: dict[str, list[Check]] = {}
        surrogate = None if self.surrogate is None else self.surrogate.model
        for name, one in zip(self.names, self.entrants, strict=True):
            subject = {
                **one.decides(),
                "noise": arguments.input_noise,
                "surrogate": None if self.surrogate is None else self.surrogate.decides(),
                **self._versions(),
            }
            self.report.start("evaluating", total, done)
            noise = arguments.input_noise
            model = one.model if noise is None else RandomSignNoise(one.model, noise).eval()

            def advance(column: str, images: int) -> None:
                nonlocal done
                done += images

            def tick(part: str, standing: int, name: str = name) -> None:
                self._stop_if_asked()
                figures = f"{standing} of {effort.images} stand"
                self.report.update(done, f"{name}: {part}", figures, effort.seconds)

            for epsilon in arguments.epsilon:
                outcomes = Outcomes()
                given: dict[str, Source] = {}
                said = f"{name}, epsilon {epsilon_text(epsilon)}"
                for images, attacks, places in work:
                    unit = {**subject, "images": images_checksum(images)}
                    kept = self._kept(**unit, epsilon=epsilon)
                    given = {**dict.fromkeys([CLEAN, *attacks], Source(images, places, kept)), **given}
                    try:
                        part = evaluate(
                            model,
                            images,
                            attacks,
                            epsilon=epsilon,
                            step_size=arguments.step_size,
                            seed=arguments.seed,
                            batch_size=arguments.batch_size,
                            surrogate=surrogate,
                            compile=arguments.compile,
                            tf32=arguments.tf32,
                            journal=journal.of(**unit),
                            advance=advance,
                            tick=tick,
                            effort=effort,
                            kept=kept,
                            note=self.note,
                            caution=lambda line, said=said: self.note(f"{said}: {line}"),  # type: ignore[misc]
                            ranks=self.ranks,
                        )
                    except InputError as error:
                        raise InputError(f"{name}: {error}") from None
                    outcomes = outcomes.joined(part)
                ordered = {attack: outcomes.correct[attack] for attack in (CLEAN, *names)}
                found.append(Evaluation(name, epsilon, replace(outcomes, correct=ordered)))
                sources.append(given)
            if arguments.masking and self.ranks.first:
                first = next(e.outcomes for e in found if (e.model, e.epsilon) == (name, arguments.epsilon[0]))
                masking[name] = self._masking(model, name, first, journal, subject)
        self.report.finish()
        self.ranks.from_first(lambda: self._write(found, masking, sources))
        return found

    def _say(self, name: str, entrant: Entrant) -> None:
        self.report.note(
            f"{name}: {entrant.network} ({entrant.named_by}); the normalisation {entrant.normalization} is assumed "
            f"({entrant.why})"
        )
        for note in entrant.notes:
            self.report.note(f"{name}: {note}")

    def _work(self, names: list[str]) -> list[tuple[ImageSet, list[str], Tensor]]:
        """Which images are attacked how, and where they are in the test set."""
        few, test = self.arguments.black_box_samples, self.dataset.test
        places = test.stratified_places(len(self.images))
        black_box = [name for name in names if parse(name).black_box]
        if few is None or few >= len(self.images) or not black_box:
            return [(self.images, names, places)]
        rest = [name for name in names if name not in black_box]
        return [(self.images, rest, places), (test.stratified(few), black_box, test.stratified_places(few))]

    def _kept(self, **subject: Any) -> InFolder:
        given = self.arguments
        subject |= {"step_size": given.step_size, "seed": given.seed}
        return InFolder(self.out, self.ranks.rank, subject, None if given.save_images else EXAMPLES)

    def _journal(self) -> FileJournal:
        self.ranks.from_first(lambda: FileJournal(self.out).close())  # found to be usable by the one that says so
        return FileJournal(self.out, self.ranks.rank)

    def _versions(self) -> dict[str, str]:
        """Of what decides outcomes besides the arguments."""
        return {
            "fastait": __version__,
            "torch": str(torch.__version__),
            "device": self.device.type,
        }

    def _masking(
        self, model: nn.Module, name: str, outcomes: Outcomes, journal: FileJournal, subject: dict[str, Any]
    ) -> list[Check]:
        few = self.images if len(self.images) <= MASKING_IMAGES else self.dataset.test.stratified(MASKING_IMAGES)
        self.report.start(f"{name}: signs of masking", 7)
        done = 0

        def advance(check: str) -> None:
            nonlocal done
            done += 1

        def tick(part: str, standing: int) -> None:
            self._stop_if_asked()
            self.report.update(done, f"{name}: signs of masking, {part}")

        return masking_report(
            model,
            few,
            epsilon=self.arguments.epsilon[0],
            seed=self.arguments.seed,
            batch_size=self.arguments.batch_size,
            surrogate=None if self.surrogate is None else self.surrogate.model,
            compile=self.arguments.compile,
            outcomes=outcomes if few is self.images else None,
            journal=lambda images: journal.of(**subject, images=images_checksum(images)),
            advance=advance,
            tick=tick,
            note=self.note,
        )

    def _write(
        self, found: list[Evaluation], masking: dict[str, list[Check]], sources: list[dict[str, Source]]
    ) -> None:
        arguments = self.arguments
        about: dict[str, Any] = {
            "dataset": self.dataset.name,
            "classes": list(self.dataset.classes),
            "data_checksum": self.dataset.checksum,
            "images": len(self.images),
            "models": {n: str(p) for n, p in zip(self.names, arguments.models, strict=True)},
            "surrogate": arguments.surrogate and str(arguments.surrogate),
            "inputs": {n: one.described() for n, one in zip(self.names, self.entrants, strict=True)},
            "surrogate_inputs": self.surrogate and self.surrogate.described(),
            "step_size": arguments.step_size,
            "seed": arguments.seed,
            "input_noise": arguments.input_noise,
            "search": {"compile": arguments.compile, "tf32": arguments.tf32},
            "masking": {name: as_rows(checks) for name, checks in masking.items()},
            **environment(self.device),
        }
        budgets = ", ".join(epsilon_text(epsilon) for epsilon in arguments.epsilon)
        heading = (
            f"accuracy in % [95 % interval], {self.dataset.name}, {len(self.images)} test images, fp32, Linf {budgets}"
        )
        if any(one.ascent is not None and not one.ascent.one_step for one in columns_of(arguments.names())):
            heading += f", steps of {epsilon_text(arguments.step_size)}"
        write_text(self.out / FILE, as_json(found, about))
        write_text(self.out / "eval.csv", as_csv(found))
        write_text(self.out / "eval.md", markdown(found, heading))
        write_outcomes(self.out / OUTCOMES_FILE, found, sources, {"classes": list(self.dataset.classes)})
        write_examples(self.out / EXAMPLES_FILE, found, sources)
        if arguments.save_images:
            for path in write_images(self.out, found, sources):
                self.report.note(f"{path} has adversarial images")
        if arguments.export == "robustbench":
            for name, entrant in zip(self.names, self.entrants, strict=True):
                path = self.out / f"{name}-robustbench.pt"
                made_by = export_robustbench(entrant.normalized, path)
                self.report.note(f"{path} is for RobustBench's {made_by}")
        if self.report.show:
            show(found, heading, masking, str(self.out))

    def _stop_if_asked(self) -> None:
        if self.stop.number is not None:
            self.report.finish()
            raise _stopped(self.stop.number, self.out, self.ranks)
