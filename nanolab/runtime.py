"""Beside the line: which device, which precision, which seed. What differs between machines is asked here."""

import os
import platform
import random
import subprocess
import time
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES_NOTED = (
    "torch",
    "tiktoken",
    "rustbpe",
    "datasets",
    "nanolab",
)  # their versions are kept with every run
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
WORTHWHILE_SPEEDUP = 1.2  # bfloat16 also costs conversions and exactness
CUBLAS_SETTING, CUBLAS_DETERMINISTIC = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"  # asked for by torch's own error
FIRST_WITH_BFLOAT16 = (8, 0)  # CUDA's compute capability of Ampere; older cards emulate it
DEVICE_VARIABLE = "NANOLAB_DEVICE"
KEEPS_GRAPHS = ("mps",)  # devices that keep something of every shape they have met, as Metal does: let there be few
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device(device_type: str = "", local_rank: int = 0) -> torch.device:
    """The device to train on: "cuda", "mps" or "cpu"; "" takes what NANOLAB_DEVICE says, or the first that is there.

    Of several GPUs it is the `local_rank`-th. The variable is for whole sessions, notebooks included, that shall stay
    on the processor.

    Raises ValueError for a device that is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    asked = "device_type" if device_type else DEVICE_VARIABLE
    device_type = device_type or os.environ.get(DEVICE_VARIABLE, "")
    if not device_type:
        device_type = next(name for name, has in there.items() if has)
    if not there.get(device_type, False):
        has = ", ".join(name for name, yes in there.items() if yes)
        raise ValueError(f"{asked} {device_type!r} is not available on this machine; it has: {has}.")
    return torch.device(device_type, local_rank if device_type == "cuda" else None)


def pick_dtype(dtype: str, device: torch.device) -> tuple[str, str]:
    """(name, reason) of the precision of the matrix products; the weights are float32 always.

    "auto" is bfloat16 on CUDA (Ampere or newer), float32 on MPS, and on a processor bfloat16 if it has instructions for
    it and a short measurement finds it faster. Without them torch emulates it, a hundred times slower than float32.

    >>> pick_dtype("float32", torch.device("cpu"))
    ('float32', 'asked for')
    """
    if dtype != "auto":
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r} is unknown; there are: auto, {', '.join(DTYPES)}.")
        return dtype, "asked for"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if (major, minor) < FIRST_WITH_BFLOAT16:
            return "float32", f"this card (compute capability {major}.{minor}) has no bfloat16 products"
        return "bfloat16", "the default on CUDA"
    if device.type != "cpu":
        return "float32", f"the default on {device.type}"
    found = bfloat16_instructions()
    if not found:
        return "float32", "this processor has no bfloat16 instructions known to torch"
    speedup = product_seconds(torch.float32) / product_seconds(torch.bfloat16)
    chosen = "bfloat16" if speedup >= WORTHWHILE_SPEEDUP else "float32"
    return chosen, f"this processor has {found}; products measured {speedup:.1f} times as fast as in float32"


def product_seconds(dtype: torch.dtype, size: int = 512, repeats: int = 5) -> float:
    """Seconds of the fastest of a few (size, size) matrix products on the processor."""
    a = torch.ones(size, size, dtype=dtype)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def bfloat16_instructions() -> str:
    """The processor's instructions for bfloat16 products, or "" if it has none or torch cannot tell."""
    if not hasattr(torch.cpu, "get_capabilities"):  # an older torch has no public way to ask
        return ""
    capabilities = torch.cpu.get_capabilities()
    return ", ".join(name for name in BFLOAT16_INSTRUCTIONS if capabilities.get(name))


def autocast(device: torch.device, dtype: str) -> AbstractContextManager:
    """A context in which matrix products run in `dtype`; the weights stay float32."""
    return nullcontext() if dtype == "float32" else torch.autocast(device.type, DTYPES[dtype])


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told, so that a clock measures the work and not the telling."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seed_everything(seed: int) -> None:
    """Seed Python's and torch's generators (the model's first weights come from them)."""
    random.seed(seed)
    torch.manual_seed(seed)


def set_deterministic(device: torch.device, wanted: bool) -> str:
    """Make every later step the same to the bit in every run, or let CUDA choose; a sentence on what holds now.

    A processor gives the same bits always, with as many threads. On CUDA some fast kernels add in whatever order their
    threads come; `torch.use_deterministic_algorithms` takes slower ones, and raises RuntimeError in an operation
    that has none. It holds for the whole process, so it is also taken back here.
    Source: docs.pytorch.org/docs/stable/notes/randomness.html

    >>> set_deterministic(torch.device("cpu"), wanted=False)
    'yes (a processor repeats its bits, with the same number of threads)'
    """
    forbid = wanted and device.type != "cpu"
    if forbid != torch.are_deterministic_algorithms_enabled():  # the setter loads the compiler: two seconds
        torch.use_deterministic_algorithms(forbid)
    if device.type == "cpu":
        return "yes (a processor repeats its bits, with the same number of threads)"
    if not wanted:
        return f"no (on {device.type} sums may be added in another order each time; deterministic=True forbids that)"
    if device.type == "cuda":
        os.environ.setdefault(CUBLAS_SETTING, CUBLAS_DETERMINISTIC)  # read when the first product is computed
        torch.backends.cudnn.benchmark = False
    return "yes (deterministic algorithms only, which are slower)"


def describe_machine(device: torch.device) -> str:
    """One line for logs and benchmarks: device, cores, Python, torch."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    python = platform.python_version()
    return f"{device.type} ({name}), {torch.get_num_threads()} threads, Python {python}, torch {torch.__version__}"


def versions() -> dict[str, str]:
    """Versions of the packages that decide the numbers, and the commit of the clone if there is one."""
    found = {package: version(package) for package in PACKAGES_NOTED}
    clone = Path(__file__).resolve().parent.parent
    if (clone / ".git").exists():
        git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=clone, capture_output=True, text=True)
        found["commit"] = git.stdout.strip() or "unknown"
    return found
