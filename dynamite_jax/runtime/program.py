"""Seeds side by side: vmapped on each device, and spread over the devices there are."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax.agents.agent import Agent
from dynamite_jax.algorithms.algorithm import Algorithm, Metrics
from dynamite_jax.config import Config
from dynamite_jax.methods import METHODS
from dynamite_jax.runtime import devices

AXES = ("seed", "env")
SEEDS, SAME = PartitionSpec("seed"), PartitionSpec()


class Program:
    """The training program of one run: its seeds on its devices, its chunk compiled ahead of time.

    Arrays of all seeds are [rows, ...] on the devices, each device holding as many rows. Where seeds don't go evenly,
    a device with one seed less computes its last seed twice: `gather` and `spread` go from rows to seeds and back.

    Attributes:
        config: the run, with the physics that is used.
        env: its environment, as the method observes it.
        algorithm: what trains its agents.
        blocks: seeds on each device.
        mesh: the devices, with the axes `seed` and `env`.
        compile_s: seconds that compiling the chunk took; 0 before `compile`.
    """

    def __init__(self, config: Config, env: DLCMDP):
        """Lay the seeds out over the devices; nothing is compiled yet.

        Raises:
            UserError: the run can't be computed with this JAX.
        """
        config = configs.settled(config, env)
        if reason := devices.here(mjx=hasattr(env, "simulator") and config.physics.impl == "jax"):
            raise UserError(reason)
        method = METHODS[config.method]
        self.config, self.env = config, method.environment(env)
        agent = Agent.build(config, self.env, method.build(config, self.env))
        self.algorithm: Algorithm = method.learner(config, agent)
        used = jax.devices()[: config.seeds]
        self.blocks = blocks(config.seeds, len(used))
        self.mesh = Mesh(np.array(used).reshape(-1, 1), AXES, axis_types=(AxisType.Auto,) * len(AXES))
        self._seed_of_row, self._row_of_seed = _rows(self.blocks)
        self.compile_s = 0.0

    @property
    def agent(self) -> Agent:
        """Who learns."""
        return self.algorithm.agent

    @property
    def layout(self) -> str:
        """The seeds on their devices in words."""
        count, total = len(self.blocks), jax.device_count()
        number = f"{count} of {total} devices" if count < total else f"{total} device{'s' * (total > 1)}"
        each = "+".join(map(str, self.blocks)) if self.padded else f"{self.blocks[0]} each"
        seeds = f"{self.config.seeds} seed{'s' * (self.config.seeds > 1)}"
        return f"{seeds} on {number}" + (f": {each}" if count > 1 else "")

    @property
    def padded(self) -> bool:
        """Whether there are more rows than seeds."""
        return len(set(self.blocks)) > 1

    def init(self, ids: Sequence[int] | None = None) -> Any:
        """State of all seeds before the first meta-update, [rows, ...], each made on its device.

        Args:
            ids: number of each seed, which fixes its random streams; by default 0 .. seeds - 1.
        """
        numbers = np.arange(self.config.seeds) if ids is None else np.asarray(ids)

        def one(number: jax.Array) -> Any:
            return jax.tree.map(_strongly_typed, self.algorithm.init(self.env, number))

        states = jax.shard_map(
            partial(jax.lax.map, one), mesh=self.mesh, in_specs=SEEDS, out_specs=SEEDS, check_vma=False
        )
        # Named also on a single device, where JAX would drop it and a restored state would compile anew.
        return jax.jit(states, out_shardings=NamedSharding(self.mesh, SEEDS))(numbers[self._seed_of_row])

    def gather(self, rows: Any) -> Any:
        """Arrays of the seeds, [seeds, ...], from those on the devices; where nothing is to do, the same arrays."""
        if not self.padded and jax.process_count() == 1:
            return rows
        everywhere = NamedSharding(self.mesh, SAME)
        take = jax.jit(partial(jax.tree.map, lambda x: x[self._row_of_seed]), out_shardings=everywhere)
        return take(rows)

    def spread(self, seeds: Any) -> Any:
        """Arrays on the devices, [rows, ...], from those of the seeds."""
        if self.padded:
            seeds = jax.tree.map(lambda x: x[self._seed_of_row], seeds)
        return jax.device_put(seeds, NamedSharding(self.mesh, SEEDS))

    def over_seeds(self, function: Callable) -> Callable:
        """A function of one seed's arrays as one of all seeds', [rows, ...].

        Seeds never meet: `shard_map` keeps the compiler from joining their loops by collectives.
        """
        return jax.shard_map(jax.vmap(function), mesh=self.mesh, in_specs=SEEDS, out_specs=SEEDS, check_vma=False)

    def compile(self, states: Any, hyper: Any = None) -> Callable[[Any], tuple[Any, Metrics]]:
        """The chunk as an executable: states -> (states, metrics of the seeds); the given states are donated.

        Args:
            states: of all seeds, [rows, ...].
            hyper: hyperparameters of each seed, leaves [seeds]; by default those of the config for all.
        """
        axis, where = (None, SAME) if hyper is None else (0, SEEDS)
        hyper = self.algorithm.hyper if hyper is None else self.spread(hyper)

        def chunk_of_device(env: DLCMDP, hyper: Any, states: Any) -> tuple[Any, Metrics]:
            one = partial(chunk, self.algorithm, self.config.chunk)
            return jax.vmap(one, in_axes=(None, axis, 0))(env, hyper, states)

        sharded = jax.shard_map(
            chunk_of_device, mesh=self.mesh, in_specs=(SAME, where, SEEDS), out_specs=SEEDS, check_vma=False
        )
        start = time.perf_counter()
        executable = jax.jit(sharded, donate_argnums=2).lower(self.env, hyper, states).compile()
        self.compile_s = time.perf_counter() - start
        chunk_of_rows = partial(executable, self.env, hyper)
        if not self.padded and jax.process_count() == 1:
            return chunk_of_rows

        def chunk_of_seeds(states: Any) -> tuple[Any, Metrics]:
            states, metrics = chunk_of_rows(states)
            return states, self.gather(metrics)

        return chunk_of_seeds

    @property
    def chunks(self) -> int:
        """Chunks of the whole run."""
        return -(-self.config.meta_updates(self.env.horizon) // self.config.chunk)

    @property
    def steps_per_chunk(self) -> int:
        """Environment steps of one seed in one chunk."""
        return self.config.chunk * self.config.num_envs * self.env.horizon


def chunk(algorithm: Algorithm, length: int, env: DLCMDP, hyper: Any, state: Any) -> tuple[Any, Metrics]:
    """`length` updates of one seed; metrics are their means."""

    def update(state: Any, _: None) -> tuple[Any, Metrics]:
        return algorithm.update(env, hyper, state)

    state, metrics = jax.lax.scan(update, state, length=length)
    return state, jax.tree.map(jnp.mean, metrics)


def blocks(seeds: int, devices: int) -> list[int]:
    """Seeds on each device, as evenly as they go: 5 on 4 devices are 2, 1, 1 and 1."""
    return [seeds // devices + (device < seeds % devices) for device in range(devices)]


def _rows(blocks: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Seed of each row, [rows], and row of each seed, [seeds]. Devices hold equal rows; short ones repeat a seed."""
    height = max(blocks)
    starts = np.cumsum([0, *blocks[:-1]])
    places = np.minimum(np.arange(height), np.array(blocks)[:, None] - 1)  # [devices, height]
    row_of_seed = [device * height + place for device, size in enumerate(blocks) for place in range(size)]
    return (starts[:, None] + places).ravel(), np.array(row_of_seed)


def _strongly_typed(x: jax.Array | float) -> jax.Array:
    """The same array without JAX's weak type, which a restored state lacks: one compilation serves both."""
    x = jnp.asarray(x)
    return jax.lax.convert_element_type(x, x.dtype) if x.weak_type else x
