"""``python -m fastait_kernels.report``: what the kernels compile to, read off the machine code, without a GPU.

Every kernel is compiled ahead of time for each target and each 16- or 32-bit type. Registers, spills and access widths
come from the cubin by cuobjdump and nvdisasm, or from AMD's assembly; times are estimates from published bandwidths.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO

import torch

from fastait_kernels._support import HAS_TRITON
from fastait_kernels.augment import DTYPES
from fastait_kernels.cases import Case, cases

TARGETS = {
    "sm_80": ("A100 80GB SXM", 2039),
    "sm_86": ("RTX 3090", 936),
    "sm_89": ("RTX 4090", 1008),
    "sm_90": ("H100 SXM", 3350),
    "sm_100": ("B200", 8000),
    "sm_120": ("RTX 5090", 1792),
    "gfx942": ("MI300X", 5300),
}
"""Target -> one card of it and its published memory bandwidth in GB/s."""


@dataclass(frozen=True)
class Row:
    """What one kernel became on one target.

    Attributes:
        registers: of a thread (vector registers on AMD).
        spills: bytes of stack of a thread on NVIDIA; spilled registers on AMD.
        shared: bytes of shared memory of a program.
        loads, stores: {width in bytes: instructions}, global memory only.
        wide_loads, wide_stores: whether as many inputs and outputs as should be are accessed 16 bytes at a time.
        bytes: global memory traffic an element, by the instructions; of an elementwise kernel's unmasked body where
            that is known, else None.
        minimum_bytes: what an element must cost.
        estimate_us: time of the typical batch at ``minimum_bytes`` and the published bandwidth. An estimate.
        wide_index: whether every program id is widened to 64 bits before anything is done with it.
    """

    kernel: str
    dtype: str
    target: str
    registers: int
    spills: int
    shared: int
    loads: dict[int, int]
    stores: dict[int, int]
    wide_loads: bool
    wide_stores: bool
    bytes: float | None
    minimum_bytes: float
    estimate_us: float
    wide_index: bool


def compile_case(case: Case, target: str) -> Row:
    """Compile one kernel for one target and read its machine code."""
    import triton
    from triton.backends.compiler import GPUTarget

    amd = target.startswith("gfx")
    gpu = GPUTarget("hip", target, 64) if amd else GPUTarget("cuda", int(target[3:]), 32)
    compiled = triton.compile(_source(case), target=gpu, options={"num_warps": case.num_warps, **case.options})
    read = _read_amd(compiled.asm["amdgcn"]) if amd else _read_nvidia(compiled.asm["cubin"])
    registers, spills, loads, stores = read
    threads = case.num_warps * gpu.warp_size
    per_thread = case.block * case.dtype.itemsize // threads
    widest = min(16, per_thread)  # a thread of AMD's wide wavefronts has only 8 bytes of an uint8 batch
    needed = [per_thread // widest * count for count in case.wide]
    moved = None
    if case.elementwise:
        # The narrower accesses are the masked block's, but for bytes, which are an image set's and never wider.
        moved = threads * (widest * (loads[widest] + stores[widest]) + loads[1] - case.scalar_bytes) / case.block
    return Row(
        kernel=case.name,
        dtype=str(case.dtype).removeprefix("torch."),
        target=target,
        registers=registers,
        spills=spills,
        shared=compiled.metadata.shared,
        loads=dict(loads),
        stores=dict(stores),
        wide_loads=loads[widest] >= needed[0],
        wide_stores=stores[widest] >= needed[1],
        bytes=moved,
        minimum_bytes=case.minimum_bytes,
        estimate_us=case.minimum_bytes * case.elements / (TARGETS[target][1] * 1e3),
        wide_index=_wide_index(compiled.asm["ttir"]),
    )


def _source(case: Case) -> Any:
    """The kernel as its arguments make it."""
    from triton.backends import compiler
    from triton.compiler import ASTSource

    aligned = [list(case.signature).index(name) for name in case.aligned]
    if hasattr(compiler, "AttrsDescriptor"):  # until triton 3.2
        return ASTSource(
            case.kernel, case.signature, case.constants, compiler.AttrsDescriptor.from_hints(dict.fromkeys(aligned, 16))
        )
    return ASTSource(
        case.kernel, case.signature, case.constants, {(index,): [["tt.divisibility", 16]] for index in aligned}
    )


def _read_nvidia(cubin: bytes) -> tuple[int, int, Counter[int], Counter[int]]:
    tools = _nvidia_tools()
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _tool(tools / "cuobjdump", "-res-usage", file.name)
        sass = _tool(tools / "nvdisasm", file.name)
    registers, stack, local = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK", "LOCAL"))  # type: ignore[index]
    accesses = {}
    for key in ("LDG", "STG"):
        modifiers = re.findall(rf"\b{key}\.([A-Z0-9.]+)", sass)
        accesses[key] = Counter(_nvidia_width(m) for m in modifiers)
    return registers, stack + local, accesses["LDG"], accesses["STG"]


def _nvidia_width(modifiers: str) -> int:
    for token, width in (("128", 16), ("64", 8), ("U16", 2), ("S16", 2), ("U8", 1), ("S8", 1)):
        # The first "64" of an address mode, as in LDG.E.64, is the only one that these instructions carry.
        if token in modifiers.split("."):
            return width
    return 4


def _nvidia_tools() -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def missing(target: str) -> str | None:
    """What the installed triton lacks to compile for ``target``; None where it lacks nothing."""
    if target.startswith("gfx"):
        from triton.backends.amd.compiler import HIPBackend

        try:
            getattr(HIPBackend, "path_to_rocm_lld", int)()  # later versions link by themselves
        except Exception as error:  # triton raises no narrower one
            return str(error)
        return None
    # Some versions have one assembler for older cards and another for newer ones.
    known = any(f"'{target}'" in _tool(ptxas, "--help") for ptxas in _nvidia_tools().glob("ptxas*"))
    return None if known else f"its ptxas does not know {target}"


def _read_amd(assembly: str) -> tuple[int, int, Counter[int], Counter[int]]:
    registers = max(int(n) for n in re.findall(r"\.vgpr_count:\s+(\d+)", assembly))
    spills = sum(int(n) for n in re.findall(r"\.[sv]gpr_spill_count:\s+(\d+)", assembly))
    widths = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4, "ushort": 2, "sshort": 2, "short": 2}
    widths |= {"ubyte": 1, "sbyte": 1, "byte": 1}
    accesses = {}
    for key in ("load", "store"):
        kinds = re.findall(rf"\b(?:global|buffer|flat)_{key}_([a-z0-9]+)", assembly)
        accesses[key] = Counter(widths[kind] for kind in kinds)
    return registers, spills, accesses["load"], accesses["store"]


def _tool(*command: str | Path) -> str:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True).stdout


def _wide_index(ttir: str) -> bool:
    """Whether each program id goes into an extension to 64 bits and nowhere else."""
    for name in re.findall(r"(%\S+) = tt\.get_program_id", ttir):
        uses = [line for line in ttir.splitlines() if re.search(rf"{re.escape(name)}\b(?! =)", line.split("=", 1)[-1])]
        if not uses or not all("arith.extsi" in line and "i64" in line for line in uses):
            return False
    return True


def _compile(job: tuple[str, torch.dtype, str]) -> Row:
    name, dtype, target = job
    case = next(case for case in cases(dtype) if case.name == name)
    return compile_case(case, target)


def compile_all(targets: list[str]) -> list[Row]:
    """Every kernel in every type for ``targets``."""
    jobs = [(case.name, dtype, t) for t in targets for dtype in DTYPES for case in cases(dtype)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ProcessPoolExecutor(cores) as pool:
        return list(pool.map(_compile, jobs, chunksize=len(jobs) // (4 * cores) or 1))


def table(rows: list[Row]) -> str:
    """The rows as aligned text."""
    head = [
        "kernel",
        "dtype",
        "target",
        "regs",
        "spills",
        "shared",
        "loads",
        "stores",
        "B/element",
        "minimum",
        "est. us",
    ]
    lines = [head]
    for r in rows:
        lines.append(
            [
                r.kernel,
                r.dtype,
                r.target,
                str(r.registers),
                str(r.spills),
                str(r.shared),
                _widths(r.loads),
                _widths(r.stores),
                "-" if r.bytes is None else f"{r.bytes:g}",
                f"{r.minimum_bytes:.2f}".rstrip("0").rstrip("."),
                f"{r.estimate_us:.2f}",
            ]
        )
    columns = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, columns, strict=True)).rstrip() for line in lines)


def _widths(accesses: dict[int, int]) -> str:
    return " ".join(f"{count}x{width}B" for width, count in sorted(accesses.items(), reverse=True)) or "-"


def _listed(lacks: dict[str, str]) -> str:
    import triton

    return "; ".join(f"{target}: triton {triton.__version__} cannot: {lack}" for target, lack in lacks.items())


def _say(text: str, stream: TextIO | None) -> None:
    """Print ``text``. Where that is not possible (a full disk, a closed pipe) the rest of the command goes on."""
    if stream is None:
        return
    try:
        print(text, file=stream, flush=True)
    except UnicodeEncodeError:
        _say(text.encode("ascii", "backslashreplace").decode(), stream)
    except (OSError, ValueError):
        # What is left in the buffer would make the interpreter end with code 120.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            stream.flush()


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` in UTF-8 so that ``path`` holds all of it or what it held before.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_file():  # a device, which keeps nothing, stays one
        path.write_text(text, "utf-8")
        return
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, "utf-8")
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


def _one_line(text: object) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line."""

    def error(self, message: str) -> NoReturn:
        _say(f"fastait_kernels.report: error: {_one_line(message)}", sys.stderr)
        sys.exit(2)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = _Parser(prog="python -m fastait_kernels.report", description=__doc__.split("\n\n")[0])
    parser.add_argument("--target", choices=TARGETS, action="append", help="one target; repeat for more [default: all]")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args(argv)
    if not HAS_TRITON or os.environ.get("TRITON_INTERPRET") == "1":
        why = "TRITON_INTERPRET=1 is set; unset it" if HAS_TRITON else "triton is not installed"
        _say(f"fastait_kernels.report: error: nothing can be compiled: {why}", sys.stderr)
        return 2
    if arguments.json and not os.path.isdir(arguments.json.parent):  # where it cannot be looked at, no folder either
        _say(f"fastait_kernels.report: error: --json {_one_line(arguments.json)}: no such folder", sys.stderr)
        return 2
    lacks = {target: lack for target in arguments.target or TARGETS if (lack := missing(target))}
    if arguments.target and lacks:
        _say(f"fastait_kernels.report: error: --target {_listed(lacks)}", sys.stderr)
        return 2
    rows = compile_all([target for target in arguments.target or TARGETS if target not in lacks])
    _say(table(rows), sys.stdout)
    _say(
        "\nloads and stores: instructions x bytes, the masked last block included. B/element: traffic of the unmasked "
        "body by its instructions. est. us: an ESTIMATE, never measured: the minimum's traffic for a typical batch "
        "(128 CIFAR images; 128 x 10 logits; 128 x 640 or 8192 features) at the published bandwidth of "
        + ", ".join(f"{card} ({gb} GB/s)" for card, gb in TARGETS.values())
        + "; launches of this size are bound by latency, not bandwidth.",
        sys.stdout,
    )
    if lacks:
        _say(f"\nleft out: {_listed(lacks)}", sys.stdout)
    if arguments.json:
        try:
            write_whole(arguments.json, json.dumps([asdict(row) for row in rows], indent=1))
        except (OSError, ValueError) as error:  # ValueError: no path
            why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            _say(f"fastait_kernels.report: error: --json {_one_line(arguments.json)}: {why}", sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
