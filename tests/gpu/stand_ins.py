"""What a rehearsal has in a GPU's place: ``torch.cuda``'s streams and graphs on CPU tensors, kernels interpreted."""

import contextlib
import functools
import importlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "bincount")
"""Operators for whose result the host has to wait, by name."""


class Stream:
    """The one stream that there is."""

    def __init__(self, *args, **options):
        pass

    def __eq__(self, other):
        return isinstance(other, Stream)

    __hash__ = None

    def wait_stream(self, other):
        """Nothing is ever behind."""

    wait_event = record_event = wait_stream

    def synchronize(self):
        """Nothing is ever behind."""


class Event(Stream):
    """Happened already."""

    def record(self, stream=None):
        """See the class."""

    def query(self):
        """See the class."""
        return True


class _Watch(TorchDispatchMode):
    """An error where the host reads a tensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in READS:
            raise RuntimeError(f"called a synchronizing CUDA operation: {func}")
        return func(*args, **(kwargs or {}))


class Graph:
    """The operations that a call does, with the tensors that it does them on, to be done again.

    As with a CUDA graph whatever else the call does, such as reading a number of the host's, happens once, and what an
    operation returned is written where it lay.
    """

    def __init__(self, *args, **options):
        self.operations = []

    def replay(self):
        """Do them again."""
        with torch.no_grad():
            for func, args, kwargs, results in self.operations:
                again = func(*args, **kwargs)
                for old, new in zip(tensors(results), tensors(again), strict=True):
                    # A view, or a tensor that was written over, is where it was already.
                    if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                        old.copy_(new)

    def reset(self):
        """Forget them."""
        self.operations = []


def tensors(results):
    return [leaf for leaf in tree_leaves(results) if isinstance(leaf, torch.Tensor)]


class _Recorder(_Watch):
    def __init__(self, graph):
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = super().__torch_dispatch__(func, types, args, kwargs)
        self.graph.operations.append((func, args, kwargs or {}, results))
        return results


@contextlib.contextmanager
def capture(graph, *args, **options):
    """``torch.cuda.graph``: what runs within is recorded. Unlike there it is done, too."""
    with _Recorder(graph):
        yield


class _SyncDebug:
    def __init__(self):
        self.watch = None

    def __call__(self, mode):
        if self.watch is not None:
            self.watch.__exit__(None, None, None)
            self.watch = None
        if mode == "error":
            self.watch = _Watch().__enter__()


def _one_hot(classes, num_classes):
    """Without a look at the classes, which torch takes on a CPU alone."""
    return (classes[..., None] == torch.arange(num_classes)).long()


def interpret_kernels(patch):
    """Let operators on the CPU run their kernels in Triton's interpreter, where it is installed."""
    support = importlib.import_module("fastait_kernels._support")
    if not support.HAS_TRITON:
        return
    for name in ("linf_step", "_numbers", "soft_cross_entropy", "cosine_distance"):
        module = importlib.import_module(f"fastait_kernels.{name}")
        patch.setattr(module, "use_kernel", lambda t: t.dtype in support.KERNEL_DTYPES)
    augment = importlib.import_module("fastait_kernels.augment")

    def run(images_u8, index, shift, flip, padding, dtype, epsilon, seed, offset):
        out = augment._empty(images_u8, index, dtype)
        augment.launch(out, images_u8, index, shift, flip, padding, epsilon, seed, offset)
        return out

    patch.setattr(augment, "_run", run)
    for name in ("margin_loss", "interpolated_cross_entropy"):  # a GPU's labels are not looked at
        module = importlib.import_module(f"fastait_kernels.{name}")
        patch.setattr(module, "check_label_range", lambda *label: None)


def take_their_place(patch):
    """Patch ``torch.cuda``, and what asks whether a run is on a GPU."""
    replaced = {
        "CUDAGraph": Graph,
        "Stream": Stream,
        "Event": Event,
        "current_stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "set_stream": lambda stream: None,
        "graph": capture,
        "set_sync_debug_mode": _SyncDebug(),
        "synchronize": lambda device=None: None,
        "get_rng_state": torch.get_rng_state,
        "get_device_name": lambda device=None: "no GPU, rehearsed on a CPU",
        "set_device": lambda device: None,
        "_sleep": lambda cycles: None,
        "mem_get_info": lambda device=None: (1 << 34, 1 << 34),
        "max_memory_allocated": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "set_per_process_memory_fraction": lambda fraction, device=None: None,
    }
    for name, value in replaced.items():
        patch.setattr(torch.cuda, name, value)
    patch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    patch.setattr(torch.nn.functional, "one_hot", _one_hot)
    patch.setattr("fastait.training.graph._no_draws_on_the_cpu", contextlib.nullcontext)  # which is the GPU here
    patch.setattr("fastait.training.graph.clear_up", lambda graph, pool, stream: graph.reset())
    # A run on the CPU is captured as one on a GPU would be.
    patch.setattr("fastait.training.prepare._use_graph", lambda config, *where: config.cuda_graph != "off")
