"""Put the networks of ``small.toml`` beside this file: ``python docs/results/weights.py SWEEP``, the sweep's folder.

Their metadata say how they were made and what they keep.
"""

import json
import sys
from pathlib import Path

from tables import FOLDER, figures

from fastait.checkpoints.sealed import opened, sealed
from fastait.runtime.files import write_whole

MADE = "fastait train --recipe cifar10-speedrun, as docs/results/small.toml says; CIFAR-10, JPEG re-encoded"
FILES = {"n-fgsm": "robust.safetensors", "natural": "natural.safetensors"}


def main(sweep: Path) -> None:
    """Of each run the averaged weights."""
    for row, name in FILES.items():
        weights, metadata = opened((sweep / "runs" / row / "ema.safetensors").read_bytes())
        kept = {attack: figure.mean for attack, figure in figures()[f"small, {row}"].items()}
        images = figures()[f"small, {row}"]["autoattack"].n
        metadata |= {
            "made": MADE,
            "method": row,
            "accuracy": json.dumps({**kept, "epsilon": "8/255", "images": images}),
        }
        write_whole(FOLDER / name, sealed(weights, metadata))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
