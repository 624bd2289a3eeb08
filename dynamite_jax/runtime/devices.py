"""The machine that a run is on: its devices, cores, memory and compilation cache."""

import contextlib
import os
import platform
import resource
from pathlib import Path
from typing import Any

import jax


def prepare(seeds: int) -> None:
    """Set JAX up for a run; call it before anything touches a device.

    On the CPU one device a core, as far as they divide the seeds, beats threads inside every operation. The
    persistent compilation cache lies in a folder of its own for each processor model, because code compiled
    for another one can crash. `JAX_COMPILATION_CACHE_DIR` chooses another folder.
    """
    with contextlib.suppress(RuntimeError):  # JAX runs already, as in a notebook: its devices stay as they are
        jax.config.update("jax_num_cpu_devices", largest_divisor(seeds, cores()))
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(root / "dynamite_jax" / _processor()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """What the run ran on."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "platform": jax.default_backend(),
        "processor": _processor(),
        "cores": cores(),
    }


def peak_mb() -> float:
    """Peak memory so far in MB: of the device where it counts, else of the process."""
    statistics = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"] / 2**20
    unit = 2**20 if platform.system() == "Darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _processor() -> str:
    """Name of the processor model, fit for a folder."""
    name = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        pairs = (line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in pairs}
        name = "-".join(fields.get(key, "") for key in ("model name", "cpu family", "model", "stepping"))
    return "".join(c if c.isalnum() else "_" for c in f"{platform.machine()}-{name}")


def largest_divisor(number: int, limit: int) -> int:
    """Largest divisor of `number` that is at most `limit`."""
    return max(n for n in range(1, max(1, min(number, limit)) + 1) if number % n == 0)
