"""Fine-tuning on a folder of your own: the weights of another run, other classes, few images.

Needs the extra ``train``; takes some seconds on one core. As commands: ``fastait train --dataset folder --data-dir NEW
--init-from RUN/model.safetensors``, then ``fastait eval``. To begin with a library's weights, which are downloaded:
``--model timm:resnet18 --pretrained`` in place of ``--init-from``; a last layer for other classes is new there too.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from sklearn.datasets import load_digits

import fastait
from fastait.data import load_dataset

FEW = 8  # images of each new class to train on


def write(root, kinds, images):
    """DIR/{train,test}/CLASS/*.png: so many images of each kind to train on, 20 to test on."""
    for kind, name in kinds.items():
        chosen = digits.images[digits.target == kind][: images + 20]
        for i, pixels in enumerate(chosen):
            folder = root / ("train" if i < images else "test") / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels * 15.9).astype("uint8")).save(folder / f"{i}.png")


digits = load_digits()
with TemporaryDirectory() as folder:
    old, new = Path(folder, "zero to six"), Path(folder, "seven to nine")
    write(old, {i: str(i) for i in range(7)}, 100)
    write(new, {7: "seven", 8: "eight", 9: "nine"}, FEW)
    common = {"dataset": "folder", "image_size": 8, "model": "wrn-10-1", "epsilon": 16 / 255}
    run = fastait.run_training(fastait.recipe("digits", **common, data_dir=old, epochs=3, out=Path(folder, "old run")))

    common |= {"data_dir": new, "batch_size": 8, "epochs": 12, "milestones": (9,), "lr": 0.02}
    for name, weights in {"drawn": None, "fine-tuned": run.folder / "model.safetensors"}.items():
        config = fastait.recipe("digits", **common, init_from=weights, out=Path(folder, name))
        result = fastait.run_training(config).result
        print(f"{name}: clean {result['clean']:.1f} %, under PGD-20 {result['pgd20']:.1f} %")

    # What the run leaves says which classes its outputs are, and is evaluated like any other.
    model, about = fastait.load_model(Path(folder, "fine-tuned"))
    images = load_dataset("folder", new, image_size=8).test
    x, y = images.floats(torch.arange(len(images)), torch.device("cpu")), images.labels
    print(about["classes"], fastait.evaluate_robustness(model, x, y, ["pgd100"], epsilon=16 / 255).accuracy())
