"""A run from Python: published settings, some of them changed, then the run's weights under further attacks.

Needs the extra ``train``; takes a few seconds on one core.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import fastait
from fastait.data import load_dataset

with TemporaryDirectory() as folder:
    config = fastait.recipe(
        "digits", image_size=16, epochs=3, milestones=(3,), eval_samples=50, out=Path(folder, "run")
    )
    run = fastait.run_training(config)  # show=True prints what the command prints
    for line in (run.folder / "metrics.jsonl").read_text().splitlines():
        epoch = json.loads(line)
        print(f"epoch {epoch['epoch']}: loss {epoch['loss']:.3f}, accuracy while attacked {epoch['accuracy']:.1f} %")
    print({name: run.result[name] for name in ("clean", "fgsm", "pgd20", "cw20")})

    # A finished run is read, not trained again; its weights are a file like any other.
    assert fastait.resume_training(run.folder).result == run.result
    model, saved = fastait.load_model(run.folder / "model.safetensors")
    images = load_dataset(saved["dataset"], image_size=saved["image_size"]).test.stratified(30)
    x, y = images.floats(torch.arange(30), torch.device("cpu")), images.labels
    print(fastait.evaluate_robustness(model, x, y, ["pgd100", "cw-min"]).accuracy())
