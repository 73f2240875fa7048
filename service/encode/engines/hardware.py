"""What this machine has: processor, its instructions, a GPU's driver, packages that are installed or not."""

from __future__ import annotations

import ctypes
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
INSTRUCTIONS = "avx2 avx512f avx_vnni avx512_vnni avx512_bf16 amx_int8 amx_bf16 asimddp i8mm".split()
GPU_NAME_BYTES = 256


def has_cuda_driver() -> bool:
    """Whether there is a GPU, which a build for CUDA does not say: it lists its provider without one too."""
    return gpu_name() is not None


def gpu_name() -> str | None:
    """Name of the first GPU, asked of the driver itself; None if there is no driver or no GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(GPU_NAME_BYTES)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    if driver.cuDeviceGetName(name, len(name), device):
        return "unnamed GPU"
    return name.value.decode(errors="replace")


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 (avx512_bf16 or amx_bf16)."""
    return bool(BF16_FLAGS & set(_cpu_info().get("flags", "").split()))


def processor_name() -> str:
    """Name of the processor with its family, model and stepping: what rounding may depend on."""
    info = _cpu_info()
    numbers = [info.get(name, "?") for name in ("cpu family", "model", "stepping")]
    return f"{info.get('model name', 'unknown processor')} ({'/'.join(numbers)})"


def instruction_set() -> str:
    """Which of `INSTRUCTIONS` the processor has: what it multiplies 8-bit integers and bfloat16 with."""
    info = _cpu_info()
    flags = info.get("flags", info.get("Features", "")).split()
    return " ".join(name for name in INSTRUCTIONS if name in flags)


def installed_version(package: str) -> str | None:
    """Version of an installed package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_info() -> dict[str, str]:
    """The first processor's block; empty if the system keeps none."""
    try:
        block = CPU_INFO.read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in block.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}
