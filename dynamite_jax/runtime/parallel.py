"""Seeds side by side: vmapped on each device, and spread over the devices there are."""

import contextlib
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_jax.algorithms import meta_ppo as train_step
from dynamite_jax.config import Config
from dynamite_jax.data.rollout import Agent
from dynamite_jax.data.types import TrainState

SEEDS, SAME = PartitionSpec("seed"), PartitionSpec()


def prepare(seeds: int) -> None:
    """Set JAX up for a run; call it before anything touches a device.

    On the CPU one device a core, as far as they divide the seeds, beats threads inside every operation. The
    persistent compilation cache lies in a folder of its own for each processor model, because code compiled
    for another one can crash. `JAX_COMPILATION_CACHE_DIR` chooses another folder.
    """
    with contextlib.suppress(RuntimeError):  # JAX runs already, as in a notebook: its devices stay as they are
        jax.config.update("jax_num_cpu_devices", _largest_divisor(seeds, cores()))
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(root / "dynamite_jax" / _processor()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


class Program:
    """The training program of one run: its seeds on its devices, its chunk compiled ahead of time.

    Attributes:
        config: the run.
        env: its environment.
        agent: its agent.
        hyper: traced hyperparameters.
        compile_s: seconds that compiling the chunk took; 0 before `compile`.
    """

    def __init__(self, config: Config, env: DLCMDP):
        """Lay the seeds out over the devices; nothing is compiled yet."""
        self.config, self.env, self.agent = config, env, Agent.build(config, env)
        self.hyper = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (config.vae, config.ppo))
        devices = jax.devices()[: _largest_divisor(config.seeds, jax.device_count())]
        self._mesh = Mesh(devices, ("seed",), axis_types=(AxisType.Auto,))
        self.compile_s = 0.0

    def init(self, ids: Sequence[int] | None = None) -> TrainState:
        """State of all seeds, [seeds, ...], before the first meta-update.

        Args:
            ids: number of each seed, which fixes its random streams; by default 0 .. seeds - 1.
        """
        one = partial(train_step.init, self.config, self.env, self.agent)
        numbers = jnp.arange(self.config.seeds) if ids is None else jnp.asarray(ids)
        states = jax.jit(lambda ids: jax.lax.map(one, ids))(numbers)
        return jax.device_put(states, NamedSharding(self._mesh, SEEDS))

    def over_seeds(self, function: Callable) -> Callable:
        """A function of one seed's arrays as one of all seeds', [seeds, ...].

        Seeds never meet: `shard_map` keeps the compiler from joining their loops by collectives.
        """
        return jax.shard_map(jax.vmap(function), mesh=self._mesh, in_specs=SEEDS, out_specs=SEEDS, check_vma=False)

    def compile(
        self, states: TrainState, hyper: train_step.Hyper | None = None
    ) -> Callable[[TrainState], tuple[TrainState, train_step.Metrics]]:
        """The chunk as an executable: states -> (states, metrics); the states given to it are used up.

        Args:
            states: of all seeds.
            hyper: hyperparameters of each seed, leaves [seeds]; by default those of the config for all.
        """
        axis, where = (None, SAME) if hyper is None else (0, SEEDS)
        hyper = self.hyper if hyper is None else hyper

        def chunk(env: DLCMDP, hyper: train_step.Hyper, states: TrainState):
            run = partial(train_step.chunk, self.config, self.agent)
            return jax.vmap(run, in_axes=(None, axis, 0))(env, hyper, states)

        sharded = jax.shard_map(chunk, mesh=self._mesh, in_specs=(SAME, where, SEEDS), out_specs=SEEDS, check_vma=False)
        start = time.perf_counter()
        executable = jax.jit(sharded, donate_argnums=2).lower(self.env, hyper, states).compile()
        self.compile_s = time.perf_counter() - start
        return partial(executable, self.env, hyper)

    @property
    def chunks(self) -> int:
        """Chunks of the whole run."""
        return -(-self.config.meta_updates(self.env.horizon) // self.config.chunk)

    @property
    def steps_per_chunk(self) -> int:
        """Environment steps of one seed in one chunk."""
        return self.config.chunk * self.config.num_envs * self.env.horizon


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


def _largest_divisor(number: int, limit: int) -> int:
    """Largest divisor of `number` that is at most `limit`."""
    return max(n for n in range(1, max(1, min(number, limit)) + 1) if number % n == 0)
