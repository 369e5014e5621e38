"""Put the networks of ``small.toml`` beside this file: ``python docs/results/weights.py SWEEP``, the sweep's folder.

Their metadata say how they were made and what they keep.
"""

import hashlib
import sys
from pathlib import Path

from tables import FOLDER, SMALL, accuracy, runs

from fastait.checkpoints.sealed import opened, sealed
from fastait.runtime.files import write_whole

MADE = "fastait train --recipe cifar10-speedrun, as docs/results/small.toml says; CIFAR-10, JPEG re-encoded"


def main(sweep: Path) -> None:
    """Of each run the averaged weights."""
    for run in (run for run in runs() if run.title in SMALL):
        data = (sweep / "runs" / run.folder.name / "ema.safetensors").read_bytes()
        weights, metadata = opened(data)
        metadata |= {"made": MADE, "method": run.system, "accuracy": accuracy(run.title)}
        metadata |= {"sha256": hashlib.sha256(data).hexdigest()}  # of the run's own file
        write_whole(FOLDER / SMALL[run.title], sealed(weights, metadata))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
