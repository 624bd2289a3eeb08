"""The machine that a run is on: its devices, cores, memory and compilation cache.

JAX is imported inside functions, since XLA reads from the environment how much to report when JAX is imported.
"""

import contextlib
import logging
import os
import platform
import sys
from pathlib import Path
from typing import Any

from jaxlib import version as jaxlib

from dynamite_envs.machine import cores

HANGS_SINCE = (0, 10)  # first jaxlib whose batched Cholesky can wait for ever inside the CPU's thread pool


def setup(seeds: int | None = None) -> None:
    """Set JAX up for training and evaluation; commands call it first, Python users may call it for the same settings.

    On the CPU one device a core, at most one a seed, is faster than threads inside every operation. Compiled programs
    are cached in `~/.cache/dynamite_jax`, in a folder for each processor model because code compiled for another one
    can crash; `JAX_COMPILATION_CACHE_DIR` names another folder, and `JAX_NUM_CPU_DEVICES` another number of devices.
    XLA and orbax report errors only.

    Args:
        seeds: agents that will be trained side by side; by default there are as many devices as cores.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA warns of tuning hints each time it reads its own cache
    import jax

    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax reports its steps at length
    if not os.environ.get("JAX_NUM_CPU_DEVICES"):
        with contextlib.suppress(RuntimeError):  # JAX is already running, as in a notebook: its devices are kept
            jax.config.update("jax_num_cpu_devices", cores() if seeds is None else max(1, min(seeds, cores())))
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        try:
            folder = cache_folder() / _processor()
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
            print(f"no compilation cache ({error}); JAX_COMPILATION_CACHE_DIR can name a folder", file=sys.stderr)
        else:
            jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def cache_folder() -> Path:
    """The folder for what is costly to compute again.

    Raises:
        RuntimeError: the user has no home folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynamite_jax"


def unusable(*, jaxlib_version: str, backend: str, mjx: bool, x64: bool) -> str | None:
    """Why training can't run on this stack, in one line; None where it can.

    Args:
        jaxlib_version: such as `0.9.2`.
        backend: `cpu`, `gpu` or `tpu`.
        mjx: whether the physics is computed by MJX in JAX.
        x64: whether JAX computes in double precision by default.
    """
    if x64:
        return "JAX_ENABLE_X64 is on; training is in single precision, so it must be off"
    if mjx and backend == "cpu" and tuple(int(part) for part in jaxlib_version.split(".")[:2]) >= HANGS_SINCE:
        return (
            f"jaxlib is {jaxlib_version}, with which physics by MJX can hang on CPUs; "
            "let it be by C MuJoCo (physics.impl 'c'), or install jax 0.9.2, as in `pip install jax==0.9.2`"
        )
    return None


def unusable_here(mjx: bool) -> str | None:
    """Why training can't run in this process, as `unusable` has it; None where it can."""
    import jax

    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    return unusable(jaxlib_version=jaxlib.__version__, backend=jax.default_backend(), mjx=mjx, x64=x64)


def compiler_options(*, runs_once: bool = False) -> dict[str, Any]:
    """How hard the compiler tries on CPUs, where most of the time to compile goes into optimising machine code.

    Level 2 of 3 compiles the chunk of a training run in two thirds of the time and runs as fast. A level named in
    `XLA_FLAGS` counts instead.

    Args:
        runs_once: whether the program is compiled for longer than it runs.
    """
    import jax

    name = "xla_backend_optimization_level"
    if jax.default_backend() != "cpu" or name in os.environ.get("XLA_FLAGS", ""):
        return {}
    return {name: 0 if runs_once else 2}


def machine() -> dict[str, Any]:
    """The hardware of this process: device, number of devices, platform, processor and cores."""
    import jax

    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "platform": jax.default_backend(),
        "processor": _processor(),
        "cores": cores(),
    }


def peak_mb() -> float | None:
    """Peak memory so far in MB: of the device where that is measured, else of the process; None where neither is."""
    import jax

    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"] / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2**20 if platform.system() == "Darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _processor() -> str:
    """Name of the processor model, with the characters of a folder's name."""
    name = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        pairs = (line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in pairs}
        name = "-".join(fields.get(key, "") for key in ("model name", "cpu family", "model", "stepping"))
    return "".join(c if c.isalnum() else "_" for c in f"{platform.machine()}-{name}")
