"""What is checked, in the order in which it is shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Check:
    """One thing that can work or not.

    Attributes:
        name: as shown.
        call: ``module:function``, imported where it runs.
        seconds: how long it may take; the first of a job may take longer, see ``jobs.START_SECONDS``.
        remedy: what to do if it raises, dies or does not end.
    """

    name: str
    call: str
    seconds: float
    remedy: str


@dataclass(frozen=True)
class Job:
    """Checks that one process does after another; the next one goes on if it dies.

    Attributes:
        checks: in order.
        environment: variables of the process beside the user's own; one that is None is removed.
        alone: whether nothing else may run beside it, since it looks at threads or measures speed. The others have one
            thread each.
    """

    checks: tuple[Check, ...]
    environment: Mapping[str, str | None] = field(default_factory=dict)
    alone: bool = False


REINSTALL = "install fastait with its extras anew, in an environment of its own"
EAGER = "leave --compile out"

MACHINE = Check("machine", "fastait.doctor.machine:machine", 60, REINSTALL)
"""Done first: without torch and a device there is nothing else to check."""

INSTALLED = Job(
    (
        MACHINE,
        Check("packages", "fastait.doctor.packages:packages", 20, REINSTALL),
        Check("torchvision", "fastait.doctor.packages:torchvision", 60, "install the torchvision that fits torch"),
        Check("apex", "fastait.doctor.packages:apex", 60, "leave --optimizer apex out"),
        Check("driver", "fastait.doctor.gpu:driver", 20, "install NVIDIA's current driver, or use --device cpu"),
        Check("gpu", "fastait.doctor.gpu:gpu", 60, "see what nvidia-smi says, or use --device cpu"),
        Check("threads", "fastait.doctor.limits:threads", 20, "set OMP_NUM_THREADS to the cores that you may use"),
        Check("shared memory", "fastait.doctor.limits:shared_memory", 20, "leave --workers out, or use --workers 0"),
        Check("open files", "fastait.doctor.limits:open_files", 20, "raise the limit: ulimit -n 4096"),
        Check("compiler", "fastait.doctor.limits:compiler", 20, "install gcc and g++, or set CC and CXX"),
    ),
    alone=True,
)


def tries(on_gpu: bool) -> tuple[Job, ...]:
    """What is tried once the device is known; long ones first."""
    # Without a GPU, Triton's kernels run in its interpreter, which is chosen before Triton is imported.
    interpreter = {} if on_gpu else {"TRITON_INTERPRET": "1"}
    compiled = {"TRITON_INTERPRET": None}
    return (
        Job((Check("compile", "fastait.doctor.compiled:compiled", 90, EAGER),), compiled),
        Job(
            (Check("operators", "fastait.doctor.operators:operators", 60, "install the triton that torch names"),),
            interpreter,
        ),
        Job(
            (
                Check("triton", "fastait.doctor.operators:compiler", 60, "install the triton that torch names"),
                Check("amp", "fastait.doctor.steps:amp", 60, "leave --amp out"),
                Check("graph", "fastait.doctor.steps:graph", 60, "use --cuda-graph off"),
                Check("dali", "fastait.doctor.loaders:dali", 60, "leave --dali out"),
                Check("workers", "fastait.doctor.loaders:workers", 60, "leave --workers out, or use --workers 0"),
            ),
            compiled,
        ),
        Job((Check("processes", "fastait.doctor.processes:processes", 90, "train in one process, without torchrun"),)),
        Job(
            (
                Check("run folder", "fastait.doctor.folder:folder", 60, "choose another place by --out"),
                Check("training", "fastait.doctor.steps:training", 90, "see the checks above"),
            ),
            compiled,
            alone=True,
        ),
    )
