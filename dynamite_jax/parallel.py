"""Seeds side by side: vmapped on each device, and spread over the devices there are.

Where there are more devices than seeds, the environments of each seed are shared out as well.
"""

import contextlib
import dataclasses
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
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dynamite_jax import train_step
from dynamite_jax.config import Config
from dynamite_jax.rollout import Agent
from dynamite_jax.types import TrainState
from envs.dlcmdp import DLCMDP

SEEDS, SAME = PartitionSpec("seed"), PartitionSpec()
ENVIRONMENTS = PartitionSpec("seed", train_step.SHARES)  # of leaves [seeds, E, ...]
EPISODES = PartitionSpec("seed", None, train_step.SHARES)  # of leaves [seeds, H, E, ...]
_PLACES: dict[str, Any] = {field.name: SEEDS for field in dataclasses.fields(TrainState)}
_PLACES |= {"environment": ENVIRONMENTS, "belief": ENVIRONMENTS, "buffer": EPISODES}
STATES = TrainState(**_PLACES)


def prepare(seeds: int) -> None:
    """Set JAX up for a run; call it before anything touches a device.

    On the CPU one device a core beats threads inside every operation. The
    persistent compilation cache lies in a folder of its own for each processor model, because code compiled
    for another one can crash. `JAX_COMPILATION_CACHE_DIR` chooses another folder.
    """
    with contextlib.suppress(RuntimeError):  # JAX runs already, as in a notebook: its devices stay as they are
        each = _largest_divisor(seeds, cores())
        jax.config.update("jax_num_cpu_devices", each * (cores() // each))
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
        shares: devices over which the environments of each seed are shared out.
        devices: that it runs on.
        compile_s: seconds that compiling the chunk took; 0 before `compile`.
    """

    def __init__(self, config: Config, env: DLCMDP):
        """Lay the seeds out over the devices; nothing is compiled yet."""
        self.config, self.env, self.agent = config, env, Agent.build(config, env)
        self.hyper = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (config.vae, config.ppo))
        each = _largest_divisor(config.seeds, jax.device_count())
        left = range(jax.device_count() // each, 0, -1)
        self.shares = next(shares for shares in left if train_step.can_share(config, env.horizon, shares))
        self.devices = each * self.shares
        grid = np.array(jax.devices()[: self.devices]).reshape(each, self.shares)
        self._mesh = Mesh(grid, ("seed", train_step.SHARES), axis_types=(AxisType.Auto,) * 2)
        self.compile_s = 0.0

    def init(self, ids: Sequence[int] | None = None) -> TrainState:
        """State of all seeds, [seeds, ...], before the first meta-update.

        Args:
            ids: number of each seed, which fixes its random streams; by default 0 .. seeds - 1.
        """
        one = partial(train_step.init, self.config, self.env, self.agent)
        numbers = jnp.arange(self.config.seeds) if ids is None else jnp.asarray(ids)
        states = jax.jit(lambda ids: jax.lax.map(one, ids))(numbers)
        place = lambda spec, part: jax.device_put(part, NamedSharding(self._mesh, spec))  # noqa: E731
        return jax.tree.map(place, STATES, states, is_leaf=lambda x: isinstance(x, PartitionSpec))

    def over_seeds(self, function: Callable, inputs: Any, outputs: Any) -> Callable:
        """A function of one seed's arrays as one of all seeds', [seeds, ...], by where inputs and outputs lie.

        Seeds never meet: `shard_map` keeps the compiler from joining their loops by collectives.
        """
        return jax.shard_map(jax.vmap(function), mesh=self._mesh, in_specs=inputs, out_specs=outputs, check_vma=False)

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
            config, shared = train_step.share(self.config, self.shares), self.shares > 1
            vae, ppo = hyper
            sizes = {name: getattr(config.vae, name) for name in ("trajectories", "buffer_episodes")}
            run = partial(train_step.chunk, config, self.agent, shared=shared)
            return jax.vmap(run, in_axes=(None, axis, 0))(env, (vae.replace(**sizes), ppo), states)

        sharded = jax.shard_map(
            chunk, mesh=self._mesh, in_specs=(SAME, where, STATES), out_specs=(STATES, SEEDS), check_vma=False
        )
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
