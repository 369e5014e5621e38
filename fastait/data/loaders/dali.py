"""The loader of NVIDIA DALI: a GPU pipeline where there is a GPU, a CPU pipeline where there is none."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastait.data.dataset import ImageSet
from fastait.data.plan import BatchPlan
from fastait.errors import InputError, RunError

PREFETCH = 2
THREADS = 2


class DaliLoader:
    """A ``Loader`` whose crops and flips run in DALI, ahead of the training step.

    Raises:
        InputError: DALI is not installed.
    """

    def __init__(self, images: ImageSet, plan: BatchPlan, device: torch.device):
        try:
            from nvidia.dali import fn, pipeline_def
        except ImportError as error:
            raise InputError(
                f"--dali: NVIDIA DALI cannot be imported ({error}); install it with pip install 'fastait[dali]' "
                "or leave --dali out"
            ) from None
        self._fn: Any = fn
        self._pipeline_def: Any = pipeline_def
        self.pixels = images.images.numpy()
        self.labels = images.labels.to(device)
        self.plan = plan
        self.device = device

    def batches(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``Loader``."""
        try:
            pipeline = self._pipeline(first, last)
            pipeline.build()
        except RuntimeError as error:
            raise RunError(f"--dali: DALI cannot start here: {' '.join(str(error).split())[:300]}") from None
        for step in range(first, last):
            stream = torch.cuda.current_stream(self.device).cuda_stream if self.device.type == "cuda" else None
            (images,) = pipeline.run(stream)
            index = self.plan.batch(step).index.to(self.device, non_blocking=True)
            yield torch.from_dlpack(images.as_tensor()), self.labels[index]

    def _pipeline(self, first: int, last: int) -> Any:
        fn = self._fn
        on_gpu = self.device.type == "cuda"
        height, width = self.pixels.shape[1:3]

        # A function of the iteration alone: no state in it to lose or to restore.
        def source(info: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            batch = self.plan.batch(min(first + info.iteration, last - 1))
            corner = (batch.shift - self.plan.padding).to(torch.int32)
            return (
                self.pixels[batch.index.numpy()],
                corner.numpy(),
                batch.flip.to(torch.int32).numpy(),
            )

        @self._pipeline_def(
            batch_size=self.plan.batch_size,
            num_threads=THREADS,
            device_id=(self.device.index or 0) if on_gpu else None,
            prefetch_queue_depth=PREFETCH,
            exec_dynamic=True,  # its outputs own their buffers, so that torch takes them without a copy
            seed=0,  # of nothing: the plan makes every choice
        )
        def pipeline() -> Any:
            pixels, corner, flip = fn.external_source(
                source=source, num_outputs=3, batch=True, batch_info=True, layout=["HWC", "", ""]
            )
            if on_gpu:
                pixels = pixels.gpu()
            cropped = fn.slice(
                pixels,
                start=corner,
                shape=[height, width],
                axes=[0, 1],
                out_of_bounds_policy="pad",
                fill_values=0,
            )
            return fn.flip(cropped, horizontal=flip)

        return pipeline()
