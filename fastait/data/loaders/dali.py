"""The loader of NVIDIA DALI: a GPU pipeline where there is a GPU, a CPU pipeline where there is none."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastait.data.dataset import ImageFiles, ImageSet
from fastait.data.decode import BadImage, read_image
from fastait.data.plan import Batch, BatchPlan
from fastait.runtime.errors import InputError, RunError, words
from fastait.runtime.threads import usable_cores

PREFETCH = 2

THREADS = 2
"""Where images are decoded already: they are gathered, cropped and flipped."""

MOST_THREADS = 16
"""Where DALI decodes: on a GPU its decoder keeps 16 MiB of the GPU's memory and 8 MiB of the host's for each."""


class DaliLoader:
    """A ``Loader`` whose decoding, crops and flips run in DALI, ahead of the training step.

    Decoded images are handed over as they are. Image files are read and decoded by DALI, on the GPU if there is one;
    JPEGs and resized images may differ by a few of 255 from what Pillow makes of them.

    Raises:
        InputError: DALI is not installed, or is for another CUDA than torch.
    """

    name = "DALI"

    def __init__(self, images: ImageSet | ImageFiles, plan: BatchPlan, device: torch.device):
        try:
            from nvidia import dali
            from nvidia.dali import fn, pipeline_def, types
        except (ImportError, OSError) as error:
            raise InputError(
                f"--dali: NVIDIA DALI cannot be imported ({error}); install it with pip install 'fastait[dali]', for "
                "CUDA 12 with pip install nvidia-dali-cuda120, or leave --dali out"
            ) from None
        if device.type == "cuda":
            _check_cuda(dali.__cuda_version__ // 1000, torch.version.cuda)
        self._fn: Any = fn
        self._types: Any = types
        self._pipeline_def: Any = pipeline_def
        self.images = images
        self.labels = images.labels.to(device)
        self.plan = plan
        self.device = device
        self.on_gpu = device.type == "cuda"

    def batches(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``Loader``."""
        try:
            pipeline = self._pipeline(self.images, self.plan, first, last)
            pipeline.build()
        except RuntimeError as error:
            raise RunError(f"--dali: DALI cannot start here: {_one_line(error)}") from None
        for step in range(first, last):
            stream = torch.cuda.current_stream(self.device).cuda_stream if self.on_gpu else None
            try:
                (images,) = pipeline.run(stream)
            except RuntimeError as error:
                ahead = range(step, min(step + PREFETCH + 2, last))
                bad = self._bad_file(ahead) if isinstance(self.images, ImageFiles) else None
                what = bad or f"DALI failed at step {step + 1}: {_one_line(error)}"
                raise RunError(f"--dali: {what}; checkpoints, if there were any, are kept") from None
            index = self.plan.batch(step).index.to(self.device, non_blocking=True)
            yield torch.from_dlpack(images.as_tensor()), self.labels[index]

    def _bad_file(self, steps: range) -> str | None:
        """The first file of ``steps`` that is bad now or that DALI cannot decode; DALI does not name it."""
        images = self.images
        assert isinstance(images, ImageFiles)
        for i in torch.cat([self.plan.batch(step).index for step in steps]).tolist():
            try:
                read_image(images.paths[i], images.image_size)
            except (BadImage, InputError) as error:
                return f"{images.paths[i]} {error}" if isinstance(error, BadImage) else str(error)
            alone = ImageFiles(images.paths[i : i + 1], images.labels[i : i + 1], images.image_size)
            try:
                self._pipeline(alone, BatchPlan(0, 1, 1, 0, False), 0, 1).run()
            except RuntimeError as error:
                return f"{images.paths[i]} is decoded by Pillow but not by DALI ({_one_line(error)}); leave --dali out"
        return None

    def _pipeline(self, images: ImageSet | ImageFiles, plan: BatchPlan, first: int, last: int) -> Any:
        fn = self._fn

        # A function of the iteration alone: no state in it to lose or to restore.
        def batch(info: Any) -> Batch:
            return plan.batch(min(first + info.iteration, last - 1))

        def choices(info: Any) -> tuple[np.ndarray, np.ndarray]:
            own = batch(info)
            return (own.shift - plan.padding).to(torch.int32).numpy(), own.flip.to(torch.int32).numpy()

        @self._pipeline_def(
            batch_size=plan.batch_size,
            num_threads=THREADS if isinstance(images, ImageSet) else min(MOST_THREADS, usable_cores()),
            device_id=(self.device.index or 0) if self.on_gpu else None,
            prefetch_queue_depth=PREFETCH,
            exec_dynamic=True,  # its outputs own their buffers, so that torch takes them without a copy
            seed=0,  # of nothing: the plan makes every choice
        )
        def pipeline() -> Any:
            corner, flip = fn.external_source(source=choices, num_outputs=2, batch=True, batch_info=True)
            if isinstance(images, ImageSet):
                size, pixels = list(images.images.shape[1:3]), self._decoded(images, batch)
            else:
                size, pixels = [images.image_size] * 2, self._from_files(images, batch)
            cropped = fn.slice(
                pixels,
                start=corner,
                shape=size,
                axes=[0, 1],
                out_of_bounds_policy="pad",
                fill_values=0,
            )
            return fn.flip(cropped, horizontal=flip)

        return pipeline()

    def _decoded(self, images: ImageSet, batch: Callable[[Any], Batch]) -> Any:
        pixels = images.images.numpy()
        gathered = self._fn.external_source(
            source=lambda info: pixels[batch(info).index.numpy()], batch=True, batch_info=True, layout="HWC"
        )
        return gathered.gpu() if self.on_gpu else gathered

    def _from_files(self, images: ImageFiles, batch: Callable[[Any], Batch]) -> Any:
        """Read, decode, and resize the largest centred square, as ``fastait.data.decode.fit`` does."""
        fn, types = self._fn, self._types
        names = [np.frombuffer(bytes(path), dtype=np.uint8) for path in images.paths]
        paths = fn.external_source(
            source=lambda info: [names[i] for i in batch(info).index.tolist()], batch=True, batch_info=True
        )
        encoded = fn.io.file.read(paths)
        size = fn.cast(fn.peek_image_shape(encoded)[:2], dtype=types.FLOAT)
        side = fn.reductions.min(size)
        margin = (size - side) / 2
        decoded = fn.decoders.image(
            encoded,
            device="mixed" if self.on_gpu else "cpu",
            output_type=types.RGB,
            jpeg_fancy_upsampling=True,  # on a GPU too, as the CPU's decoder does it
        )
        return fn.resize(
            decoded,
            size=[images.image_size] * 2,
            roi_start=margin,
            roi_end=margin + side,
            interp_type=types.INTERP_LINEAR,
            antialias=True,
        )


def _check_cuda(dali_major: int, torch_cuda: str | None) -> None:
    if torch_cuda is None:
        raise InputError("--dali works with NVIDIA GPUs, but torch here is built for others; leave --dali out")
    torch_major = int(torch_cuda.partition(".")[0])
    if dali_major != torch_major:
        raise InputError(
            f"--dali: the DALI that is installed is for CUDA {dali_major}, torch is for CUDA {torch_major}; "
            f"pip uninstall nvidia-dali-cuda{dali_major}0, then pip install nvidia-dali-cuda{torch_major}0, or leave "
            "--dali out"
        )


def _one_line(error: Exception) -> str:
    """What went wrong, less where in the pipeline's definition."""
    return words(str(error).rpartition("encountered:")[2], 300)
