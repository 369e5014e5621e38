"""What an epoch of each row costs, counted and timed: ``python docs/results/cost.py`` writes ``cost.json``.

F is a forward pass of an image; seconds are those of two CPU cores in the arithmetic that they have, for 50,000 images,
from steps of every row in turn, with nothing else running.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from tables import FOLDER, records, titled

from fastait.config import BESIDE, TrainConfig
from fastait.methods import METHODS
from fastait.models import make
from fastait.reproduction.cost import run_cost
from fastait.reproduction.sweep import read_sweep
from fastait.runtime.hardware import environment
from fastait.runtime.precision import Precision, current, native_half
from fastait.training.averaged import Averaged
from fastait.training.optimizer import make_optimizer
from fastait.training.prepare import cached_images, method_settings
from fastait.training.step import TrainStep

IMAGES, CLASSES, ROUNDS = 50_000, 10, 7


def main() -> int:
    """Always 0."""
    device, found, steps = torch.device("cpu"), {}, dict[str, Callable[[], float]]()
    with current(device):
        for file in sorted(FOLDER.glob("*.toml")):
            for title, config in read_sweep(file).rows.items():
                title = titled(file.stem, title)
                cost = run_cost(config, CLASSES)
                found[title] = {"epochs": config.epochs, "passes": round(cost.passes, 2), "parameters": cost.parameters}
                found[title] |= {"gflop_of_a_pass": round(cost.forward / 1e9, 4), "batch_size": config.batch_size}
                steps[title] = _step(config, device)
        for record in records():  # which say their seconds themselves
            told = record.seeds[0].config
            config = TrainConfig.from_json({name: told[name] for name in told if name not in BESIDE})
            cost = run_cost(config, CLASSES)
            found[record.name] = {"epochs": config.epochs, "passes": round(cost.passes, 2)}
        times: dict[str, list[float]] = {title: [] for title in steps}
        for number in range(ROUNDS + 1):
            for title, step in steps.items():
                seconds = step()
                if number:  # the first warms up
                    times[title].append(seconds)
    for title, measured in times.items():
        epoch = statistics.median(measured) * IMAGES / found[title]["batch_size"]
        found[title] |= {"seconds_of_an_epoch": round(epoch, 1), "n": len(measured)}
    about = {**environment(device), "arithmetic": "bf16" if native_half(device) else "fp32", "images": IMAGES}
    text = json.dumps({"about": about, "rows": found}, indent=1)
    (FOLDER / "cost.json").write_text(text + "\n", "utf-8")
    return 0


def _step(config, device: torch.device) -> Callable[[], float]:
    model = make(config.model, CLASSES, generator_seed=0).to(memory_format=torch.channels_last)
    rates = {"lr": config.lr, "weight_decay": config.weight_decay, "nesterov": config.nesterov}
    step = TrainStep(
        model,
        METHODS[config.method],
        method_settings(config, CLASSES, at_a_time=cached_images(model, config.image_size)),
        make_optimizer(config.optimizer, model.parameters(), **rates),
        Precision(device, native_half(device)),
        seed=0,
        averaged=config.ema and Averaged(model, config.ema),
        batch_size=config.batch_size,
    )
    images = torch.randint(0, 256, (config.batch_size, 32, 32, 3), dtype=torch.uint8)
    y = torch.randint(0, CLASSES, (config.batch_size,))

    def timed() -> float:
        began = time.perf_counter()
        step(images, y, 0)
        return time.perf_counter() - began

    return timed


if __name__ == "__main__":
    sys.exit(main())
