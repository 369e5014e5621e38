"""Command lines, drawn: flags of the commands' own dataclasses with values that are right, nearly right, or hostile."""

import dataclasses
import types
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Annotated, Any, Union, get_args, get_origin

from fastait.__main__ import COMMANDS
from fastait.attacks.columns import PARTS
from fastait.config import CUDA_GRAPH, DATASETS, OPTIMIZERS, SCHEDULES
from fastait.data.__main__ import DataArguments
from fastait.doctor.__main__ import DoctorArguments
from fastait.eval_config import EvalArguments
from fastait.methods import DISTANCES, METHODS, PARTNER_FEATURES, PARTNERS
from fastait.recipes import RECIPES
from fastait.report.__main__ import ReportArguments
from fastait.reproduce import ReproduceArguments
from fastait.reproduction.company import SUBMIT
from fastait.reproduction.figures import FIGURES
from fastait.reproduction.systems import SCALES
from fastait.reproduction.tables import TABLES
from fastait.sweep import SweepArguments
from fastait.train import TrainArguments
from fastait_kernels.report import TARGETS

ARGUMENTS = {
    "train": TrainArguments,
    "eval": EvalArguments,
    "report": ReportArguments,
    "data": DataArguments,
    "reproduce": ReproduceArguments,
    "sweep": SweepArguments,
    "doctor": DoctorArguments,
}

TEXTS = (
    *("", " ", "-", "--", "---", "-1", "--=", "=", "\0", "a\0b", "\n", "a\nb", "\t", "\r", "\x1b[31mred\x1b[0m"),
    *("[red]x[/red]", "[", "]", "[/]", "[bold", "\\[", "{x}", "%s", "$HOME", "`id`", "~", "~nobody", "*", "?", "a;b"),
    *("\x9b", "é", "日本語", "\u202e", "\u200b", "\ud800", "a\udcff", "\U0001f600", "x" * 300, "x" * 70000, "é" * 200),
    *("None", "null", "true", "[]", "()", "a,b", ",", ",,", "../..", "a/" * 60 + "b", "con", "nan", "inf"),
)
NUMBERS = (
    *("0", "1", "2", "3", "-1", "-0", "+1", "1.5", ".5", "0x10", "1e3", "1_000", "\u0661", "²", "1e400", "1e-400"),
    *("nan", "inf", "-inf", "NaN", str(2**31), str(2**63), str(2**63 - 1), str(-(2**63)), "9" * 5000, "1" + "0" * 400),
    *("8/255", "8/0", "0/0", "1/nan", "8/", "/8", "8/255/2", "1e308/1e-308", "4096", "4097", "1,2", "1e999999999", "7"),
)

GOOD: dict[str, tuple[str, ...]] = {
    "recipe": tuple(RECIPES),
    "method": tuple(METHODS),
    "dataset": DATASETS,
    "distance": DISTANCES,
    "partners": PARTNERS,
    "partner_features": PARTNER_FEATURES,
    "schedule": SCHEDULES,
    "optimizer": OPTIMIZERS,
    "cuda_graph": CUDA_GRAPH,
    "device": ("cpu", "cpu", "auto", "cuda", "cuda:0", "cpu:0", "cuda:99", "meta", "mps"),
    "scale": tuple(SCALES),
    "submit": SUBMIT,
    "export": ("robustbench",),
    "inputs": ("auto", "zero-one", "minus-one-one"),
    "image_size": ("8", "8", "8", "9"),
    "batch_size": ("4", "2"),
    "epochs": ("1", "2", "3"),
    "eval_samples": ("2", "1"),
    "samples": ("2", "1"),
    "black_box_samples": ("1", "2"),
    "epsilon": ("8/255", "0.03", "1", "1/255"),
    "step_size": ("2/255", "0.01"),
    "seed": ("0", "1", "7"),
    "seeds": ("0", "0,1", "3"),
    "workers": ("0", "1", "2"),
    "milestones": ("1", "2", "10"),
    "mean": ("0.5", "0.49,0.48,0.45", "125/255"),
    "std": ("0.5", "0.2,0.2,0.2"),
    "image_column": ("img", "image"),
    "label_column": ("label",),
    "train_files": ("train*.parquet", "*"),
    "test_files": ("test*.parquet",),
    "time": ("1:00:00",),
    "names": (*TABLES, *FIGURES),
    "attacks": (*("fgsm", "pgd20", "cw20", "autoattack", "quick", "feature10", "spsa-8x2", "local-search"), *PARTS),
    "model": ("wrn-10-1", "wrn-10-1", "wrn-10-1", "wrn-16-1-silu", "resnet-18"),
}
"""Values that a flag of this name takes; where it is not listed, its type says what it takes."""

NEAR: dict[str, tuple[str, ...]] = {
    "model": (
        *(
            "wrn-10-0",
            "wrn-10--1",
            "wrn-11-1",
            "wrn-10",
            "wrn-10-99999999",
            "wrn-10-1-relu",
            "resnet18",
            "timm:",
            "timm:x",
        ),
        *("torchvision:nothing", "torchvision:resnet18", "timm:resnet10t", "os:getpid", "os:system", "nowhere:f"),
        *("builtins:print", "sys:exit", "json:loads", "a.b", ":", "a:b:c", "torch.nn:Linear", "os.path:join", ".x:y"),
    ),
    "attacks": (
        *("pgd", "pgd0", "pgd-1", "pgd20-zero", "pgd20-worst", "transfer-pgd20", "eot2-pgd20", "eot0-pgd20", "a+b"),
        *("fgsm,fgsm", "fgsm+pgd20", "pgd20-min3", "pgd20-min0", "pgd99999999999999999999", "apgd-ce-5", "square-0"),
        *("autoattack-", "+", "fgsm+", "transfer-transfer-fgsm", "fgsm,,pgd20", "spsa-0x0", "cw-min", "pgd20-best"),
    ),
    "seeds": ("0,", "a", "0,0", "-1", "1.5", ",".join(map(str, range(3)))),
    "time": ("-1", "a;b"),
    "device": ("cuda:-1", "cuda:", "cpu:1", "CPU", "gpu", "cuda:1.5", "xla", "privateuseone"),
}

PATHS = ("out", "here/out", "out.html", "out.png", "./out", "missing/out", "../out", "/proc/nowhere", "null/x", "out/")
"""Where something may be written."""

STARTS: dict[str, Sequence[Sequence[str]]] = {
    "train": (
        ("--image-size", "8", "--model", "wrn-10-1", "--epochs", "1", "--eval-samples", "10", "--device", "cpu"),
        ("--dataset", "folder", "--data-dir", "images", "--image-size", "8", "--batch-size", "4", "--device", "cpu"),
        ("--dataset", "parquet", "--data-dir", "parquet", "--image-size", "8", "--batch-size", "2", "--device", "cpu"),
        ("--resume", "run"),
        ("--resume", "run-begun"),
        (),
    ),
    "eval": (
        ("run",),
        ("run", "--samples", "2"),
        ("weights.safetensors", "--dataset", "folder", "--data-dir", "images"),
        (),
    ),
    "report": (("run",), ("run", "--eval", "eval"), ("--eval", "eval"), ()),
    "data": (("digits", "--image-size", "8"), ("folder", "--data-dir", "images", "--image-size", "8"), ()),
    "reproduce": (("table1",), ("table2", "--dry-run"), ("table1", "--status"), ("epsilons",), ("--list",), ()),
    "sweep": (("sweep.toml",), ("sweep.toml", "--dry-run"), ("sweep.toml", "--status"), ()),
    "doctor": ((), ("--json",)),
    "kernels": ((), ("--target", "sm_90")),
}
"""How lines begin: something that is right but for what comes after it."""


class Lines:
    """Lines that may name ``names``, files of the world that they are run in."""

    def __init__(self, seed: int, names: Sequence[str]):
        self._random = Random(seed)
        self._names = names
        self._runs = [name for name in names if "/" not in name]

    def draw(self) -> list[str]:
        """The next one: what is typed after ``fastait``."""
        random = self._random
        if random.random() < 0.03:
            return [self._text() for _ in range(random.randrange(3))]
        command = random.choice(list(COMMANDS))
        if random.random() < 0.02:
            command = random.choice([command.upper(), command[:-1], command + " ", f"--{command}"])
        rest = list(random.choice(STARTS.get(command, ((),))))
        for _ in range(random.choice((0, 1, 1, 1, 2, 2, 3, 6))):
            rest += self._argument(command)
        if random.random() < 0.03:
            random.shuffle(rest)
        if random.random() < 0.02:
            rest.insert(random.randrange(len(rest) + 1), random.choice(("--help", "-h", "--version", "--")))
        return [command, *rest]

    def _argument(self, command: str) -> list[str]:
        random = self._random
        if command not in ARGUMENTS or random.random() < 0.04:
            if command == "kernels" and random.random() < 0.8:
                flag = random.choice(("--target", "--json"))
                return [flag, random.choice(list(TARGETS)) if flag == "--target" else self._path()]
            return [random.choice((self._text(), f"--{self._text()}", self._path()))]
        field = random.choice(dataclasses.fields(ARGUMENTS[command]))
        kind = _kind(field.type)
        name = "--" + field.name.strip("_").replace("_", "-")
        if kind is bool:
            return [random.choice((name, name, name.replace("--", "--no-"), f"{name}=true", f"{name}=maybe"))]
        value = self._value(field.name, kind)
        if not field.kw_only and random.random() < 0.9:
            return [value]
        return [f"{name}={value}"] if random.random() < 0.3 else [name, value]

    def _value(self, name: str, kind: Any) -> str:
        random, luck = self._random, self._random.random()
        if luck < 0.08:
            return self._text()
        if kind is Path:
            return self._path()
        if luck < 0.3:
            return random.choice(NEAR.get(name, NUMBERS if kind in (int, float) else TEXTS))
        if luck < 0.4:
            return random.choice(NUMBERS)
        if name in GOOD:
            return random.choice(GOOD[name])
        return random.choice(("1", "2", "0.5", "0") if kind in (int, float) else TEXTS)

    def _path(self) -> str:
        random, luck = self._random, self._random.random()
        if luck < 0.45:
            return random.choice(self._runs)
        if luck < 0.6:
            return random.choice(self._names)
        return random.choice(PATHS) if luck < 0.9 else self._text()

    def _text(self) -> str:
        return self._random.choice(TEXTS)


def _kind(annotation: Any) -> Any:
    """The type of a flag's value; of several, that of one."""
    origin, parts = get_origin(annotation), [part for part in get_args(annotation) if part not in (type(None), ...)]
    if origin is Annotated or origin in (Union, types.UnionType, tuple):
        return _kind(parts[0])
    return annotation
