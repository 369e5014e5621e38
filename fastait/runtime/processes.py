"""The processes of a run: one, or as many as torchrun started, on one machine or several."""

import datetime
import gc
import inspect
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from fastait.runtime.errors import FastaitError, InputError, RunError, SaidElsewhere

T = TypeVar("T")

JOIN_SECONDS = 600
"""How long the first process waits for the others."""


@dataclass(frozen=True)
class Ranks:
    """This process and its peers. Every method but ``first`` is for all processes to call, at the same place.

    Attributes:
        rank: this process among all, from 0.
        size: how many there are.
        local_rank: this process among those of its machine, from 0.
        stream: what DistributedDataParallel's gradients are accumulated on and a graph is captured on; None where no
            graph is.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    stream: "torch.cuda.Stream | None" = None

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    def from_first(self, call: Callable[[], T]) -> T:
        """What ``call`` returns in the first process; its FastaitError ends the others without another word."""
        if self.size == 1:
            return call()
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer[0] = call()
            except FastaitError as error:
                dist.broadcast_object_list([None, error.exit_code])
                raise
        dist.broadcast_object_list(answer)
        if answer[1] is not None:
            raise SaidElsewhere(answer[1])
        return answer[0]

    @contextmanager
    def one_by_one(self) -> Iterator[None]:
        """The first process of each machine goes first, to download for example; the others wait for it.

        A FastaitError of any ends all of them, the others without another word.
        """
        if self.local_rank:
            self._all_well()
        try:
            yield
        except FastaitError as error:
            self.largest(error.exit_code)
            raise
        self._all_well()
        if not self.local_rank:
            self._all_well()

    def _all_well(self) -> None:
        worst = self.largest(0)[0]
        if worst:
            raise SaidElsewhere(worst)

    def refuse(self, wrong: bool, message: str) -> None:
        """Raise an InputError if ``wrong`` in any process; the first of them says it."""
        if self.largest(wrong)[0]:
            raise InputError(message) if self.first else SaidElsewhere(InputError.exit_code)

    def first_to_say(self, text: str | None) -> str | None:
        """The ``text`` of the first process that has one; None if none has."""
        if self.size == 1:
            return text
        found = self.largest(0 if text is None else self.size - self.rank)[0]
        if not found:
            return None
        answer = [text]
        dist.broadcast_object_list(answer, src=self.size - found)
        return answer[0]

    def largest(self, *values: int) -> list[int]:
        """The largest of each value over all processes. On the CPUs: no GPU is waited for."""
        if self.size == 1:
            return list(values)
        all_values = torch.tensor(values, device="cpu")
        dist.all_reduce(all_values, dist.ReduceOp.MAX)
        return all_values.tolist()

    def total(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all processes, in fp64."""
        if self.size == 1:
            return list(values)
        all_values = torch.tensor(values, dtype=torch.float64, device="cpu")
        dist.all_reduce(all_values)
        return all_values.tolist()

    def merge(self, parts: Tensor) -> Tensor:
        """The sum over all processes of a tensor on the CPU."""
        if self.size > 1:
            dist.all_reduce(parts)
        return parts

    def average(self, tensors: list[Tensor], weight: float) -> None:
        """Replace each tensor by its mean over the processes, whose weights sum to one. A launch each on a GPU."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors]).mul_(weight)
        dist.all_reduce(flat)
        means = [mean.view_as(t) for mean, t in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True)]
        torch._foreach_copy_(tensors, means)

    def as_first(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by the first process's. A launch or two each on a GPU."""
        for tensor in tensors if self.size > 1 else ():
            theirs = tensor.contiguous()
            dist.broadcast(theirs, 0)
            tensor.copy_(theirs)

    def data_parallel(self, model: nn.Module) -> nn.Module:
        """``model`` with gradients that are averaged over the processes; itself if there is but one."""
        if self.size == 1:
            return model
        device = next(model.parameters()).device
        parallel_type = nn.parallel.DistributedDataParallel
        # BN statistics are averaged by ``average``, which counts an empty shard for nothing. torch 2.13 renamed this.
        new = "forward_sync_buffers" in inspect.signature(parallel_type.__init__).parameters
        # Gradients that lie where they are averaged are not copied there and back, two launches for each. They move
        # there in the first two steps, and stay.
        options: dict[str, Any] = {
            "forward_sync_buffers" if new else "broadcast_buffers": False,
            "gradient_as_bucket_view": True,
        }
        if device.type == "cuda":
            options["device_ids"] = [device.index]
        if self.stream is None:
            return parallel_type(model, **options)
        # Its gradient accumulators keep the stream that they are made on, and a graph holds one stream's work.
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            parallel = parallel_type(model, **options)
        torch.cuda.current_stream().wait_stream(self.stream)
        return parallel


def lost_another(error: BaseException) -> bool:
    """Whether a collective came to nothing because another process has ended."""
    if isinstance(error, FastaitError):  # it has been said already
        return False
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def launched() -> bool:
    """Whether torchrun, or something that sets its variables, started this process and may start it anew."""
    return "TORCHELASTIC_RUN_ID" in os.environ or _world_size() > 1


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _store_of_this_start(rank: int, size: int) -> dist.Store:
    """torchrun's store, under a prefix that the processes of this start alone know.

    torchrun keeps one store for all its starts, so without a prefix a process can read the address that a dead one
    left there, and wait for it for ever; and its count of restarts, each machine's own, is no common prefix. Each
    process therefore leaves a name that no one ever had, and the first answers it with the name of this start.
    """
    store, _, _ = next(rendezvous("env://", rank, size))
    own = uuid.uuid4().hex
    if rank:
        store.set(f"fastait/here/{rank}", own)
        start = store.get(f"fastait/start/{own}").decode()  # waits for the first process
        store.add(f"fastait/joined/{start}", 1)
        return dist.PrefixStore(start, store)
    deadline = time.monotonic() + JOIN_SECONDS
    answered = set()
    while store.add(f"fastait/joined/{own}", 0) < size - 1:
        if time.monotonic() > deadline:
            raise RunError(f"{size} processes were announced, but some did not come within {JOIN_SECONDS} seconds")
        for other in range(1, size):
            if store.check([f"fastait/here/{other}"]):
                name = store.get(f"fastait/here/{other}").decode()
                if name not in answered:
                    store.set(f"fastait/start/{name}", own)
                    answered.add(name)
        time.sleep(0.01)
    return dist.PrefixStore(own, store)


@contextmanager
def join(
    device: str, *, capture: bool = False, timeout: datetime.timedelta | None = None
) -> Iterator[tuple[Ranks, str]]:
    """Meet the other processes that torchrun started, if it did; yields the ranks and this process's device's name.

    Args:
        device: ``--device``: with several processes auto, cpu or cuda; each process takes the GPU of its local rank.
        capture: whether the step of several GPUs is to be captured as a CUDA graph.
        timeout: how long a process waits for another; torch's default if None.

    Raises:
        InputError: ``device`` names one GPU for several processes, or torchrun's variables are incomplete.
    """
    if _world_size() == 1:
        yield Ranks(), device
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(f"WORLD_SIZE is set but {', '.join(missing)} not; start several processes with torchrun")
    if device.startswith("cuda:"):
        raise InputError(f"--device {device}: each of several processes takes its own GPU; use --device cuda or auto")
    rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        device = f"cuda:{local_rank}"
    stream = None
    if on_gpu and local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)
        stream = torch.cuda.Stream() if capture else None
    # The hosts agree on when to save and to stop over gloo; NCCL would make them wait for their GPUs.
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(
        backend, store=_store_of_this_start(rank, size), rank=rank, world_size=size, timeout=timeout
    )
    try:
        yield Ranks(rank, size, local_rank, stream), device
        dist.barrier()  # nobody leaves while another still speaks to it
    finally:
        # Whatever holds the group, DistributedDataParallel for one, goes before it: a group whose threads are ended by
        # the interpreter's exit has been seen to abort the process.
        gc.collect()
        dist.destroy_process_group()
