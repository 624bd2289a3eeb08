"""Independent seeds: vmapped on each device, and spread over the available devices."""

import itertools
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

    Arrays of all seeds are [rows, ...] on the devices of all processes, with the same number of rows on each. Row i is
    seed i; where the seeds don't divide evenly, the rows behind them repeat the last one. `gather` and `spread` convert
    rows to seeds and back.

    Attributes:
        config: the run, with the physics that is used.
        env: its environment, as the method observes it.
        algorithm: trains its agents.
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
        if reason := devices.unusable_here(mjx=hasattr(env, "simulator") and config.physics.impl == "jax"):
            raise UserError(reason)
        method = METHODS[config.method]
        self.config, self.env = config, method.environment(env)
        agent = Agent.build(config, self.env, method.build(config, self.env))
        self.algorithm: Algorithm = method.learner(config, agent)
        used = devices_for(config.seeds, jax.devices())
        self.blocks = blocks(config.seeds, len(used))
        self.mesh = Mesh(np.array(used).reshape(-1, 1), AXES, axis_types=(AxisType.Auto,) * len(AXES))
        self._seed_of_row = np.minimum(np.arange(max(self.blocks) * len(used)), config.seeds - 1)
        # Kept, since a function that is made for each call would be compiled for each call.
        self._take = jax.jit(_take, out_shardings=NamedSharding(self.mesh, SAME))
        self.compile_s = 0.0

    @property
    def agent(self) -> Agent:
        """The agent that is trained."""
        return self.algorithm.agent

    @property
    def layout(self) -> str:
        """The seeds on their devices in words."""
        count, total = len(self.blocks), jax.device_count()
        number = f"{count} of {total} devices" if count < total else f"{total} device{'s' * (total > 1)}"
        each = "+".join(map(str, self.blocks)) if self.padded else f"{self.blocks[0]} each"
        if jax.process_count() > 1:
            number += f" of {jax.process_count()} processes"
        seeds = f"{self.config.seeds} seed{'s' * (self.config.seeds > 1)}"
        return f"{seeds} on {number}" + (f": {each}" if count > 1 else "")

    @property
    def padded(self) -> bool:
        """Whether there are more rows than seeds."""
        return len(self._seed_of_row) > self.config.seeds

    def init(self, ids: Sequence[int] | None = None) -> Any:
        """State of all seeds before the first meta-update, [rows, ...], each created on its device.

        Args:
            ids: number of each seed, which fixes its random streams; by default 0 .. seeds - 1.
        """
        seed_ids = np.arange(self.config.seeds) if ids is None else np.asarray(ids)

        def init_seed(seed_id: jax.Array) -> Any:
            return jax.tree.map(_strongly_typed, self.algorithm.init(self.env, seed_id))

        init_rows = jax.shard_map(
            partial(jax.lax.map, init_seed), mesh=self.mesh, in_specs=SEEDS, out_specs=SEEDS, check_vma=False
        )
        # Given also on a single device, where JAX would drop the sharding and a restored state would compile anew.
        ids_of_rows = seed_ids[self._seed_of_row]
        init = jax.jit(init_rows, out_shardings=NamedSharding(self.mesh, SEEDS)).lower(ids_of_rows)
        return init.compile(devices.compiler_options(runs_once=True))(ids_of_rows)

    def gather(self, rows: Any, chosen: Sequence[int] | None = None) -> Any:
        """Arrays of the seeds, [seeds, ...], from those on the devices; all processes get all of them.

        Args:
            rows: on the devices, [rows, ...].
            chosen: numbers of the seeds that are wanted; by default all, and the same arrays where there is no padding.
        """
        if chosen is None and not self.padded and jax.process_count() == 1:
            return rows
        return self._take(rows, np.arange(self.config.seeds) if chosen is None else np.asarray(chosen))

    def kept(self, rows: Any) -> Any:
        """Arrays as a checkpoint keeps them: those of the seeds; of several processes the rows, each on its device."""
        return self.gather(rows) if jax.process_count() == 1 else rows

    def spread(self, kept: Any) -> Any:
        """Arrays on the devices, [rows, ...], from those of the seeds, or from what is kept."""
        if jax.process_count() > 1:
            return kept
        if self.padded:
            kept = _take(kept, self._seed_of_row)
        return jax.device_put(kept, NamedSharding(self.mesh, SEEDS))

    def over_seeds(self, function: Callable) -> Callable:
        """Map a function of one seed's arrays over those of all seeds, [rows, ...].

        Seeds are independent: `shard_map` keeps the compiler from joining their loops by collectives.
        """
        return jax.shard_map(jax.vmap(function), mesh=self.mesh, in_specs=SEEDS, out_specs=SEEDS, check_vma=False)

    def one_by_one(self, function: Callable, seeds: Any, same: Any) -> Any:
        """Results of a function for each seed, [seeds, ...]; a device computes those of its seeds one after the other.

        Args:
            function: of one seed's arrays, and of what is the same for all.
            seeds: arrays of the seeds, or of the rows.
            same: arrays without an axis of seeds.
        """

        def of_device(seeds: Any, same: Any) -> Any:
            return jax.lax.map(lambda seed: function(seed, same), seeds)

        mapped = jax.shard_map(of_device, mesh=self.mesh, in_specs=(SEEDS, SAME), out_specs=SEEDS, check_vma=False)
        return self.gather(jax.jit(mapped)(self.spread(seeds), same))

    def lower(self, states: Any, hyper: Any = None, platforms: tuple[str, ...] | None = None) -> jax.stages.Lowered:
        """The chunk before it is compiled: states -> (states, metrics of the rows); the given states are donated.

        Args:
            states: of all seeds, [rows, ...].
            hyper: hyperparameters of each seed, leaves [rows]; by default those of the config for all.
            platforms: what it is lowered for, as `cuda`; by default the devices that are here.
        """
        hyper_axis, hyper_spec = (None, SAME) if hyper is None else (0, SEEDS)
        hyper = self.algorithm.hyper if hyper is None else hyper
        mean = jnp.nanmean if self.config.not_finite == "skip" else jnp.mean

        def chunk_of_device(env: DLCMDP, hyper: Any, states: Any) -> tuple[Any, Metrics]:
            chunk_of_seed = partial(chunk, self.algorithm, self.config.chunk, mean=mean)
            return jax.vmap(chunk_of_seed, in_axes=(None, hyper_axis, 0))(env, hyper, states)

        sharded = jax.shard_map(
            chunk_of_device, mesh=self.mesh, in_specs=(SAME, hyper_spec, SEEDS), out_specs=SEEDS, check_vma=False
        )
        traced = jax.jit(sharded, donate_argnums=2).trace(self.env, hyper, states)
        return traced.lower(lowering_platforms=platforms)

    def compile(self, states: Any, hyper: Any = None) -> Callable[[Any], tuple[Any, Metrics]]:
        """The chunk as an executable: states -> (states, metrics of the seeds); the given states are donated.

        Args:
            states: of all seeds, [rows, ...].
            hyper: hyperparameters of each seed, leaves [seeds]; by default those of the config for all.
        """
        hyper = None if hyper is None else self.spread(hyper)
        start = time.perf_counter()
        executable = self.lower(states, hyper).compile(devices.compiler_options())
        self.compile_s = time.perf_counter() - start
        chunk_of_rows = partial(executable, self.env, self.algorithm.hyper if hyper is None else hyper)
        if not self.padded and jax.process_count() == 1:
            return chunk_of_rows

        def chunk_of_seeds(states: Any) -> tuple[Any, Metrics]:
            states, metrics = chunk_of_rows(states)
            return states, self.gather(metrics)

        return chunk_of_seeds

    @property
    def chunks(self) -> int:
        """Number of chunks in the run."""
        return -(-self.config.meta_updates(self.env.horizon) // self.config.chunk)

    @property
    def steps_per_chunk(self) -> int:
        """Environment steps of one seed in one chunk."""
        return self.config.chunk * self.config.num_envs * self.env.horizon


def chunk(
    algorithm: Algorithm, length: int, env: DLCMDP, hyper: Any, state: Any, mean: Callable = jnp.mean
) -> tuple[Any, Metrics]:
    """`length` updates of one seed, and the `mean` of each metric."""

    def update(state: Any, _: None) -> tuple[Any, Metrics]:
        return algorithm.update(env, hyper, state)

    state, metrics = jax.lax.scan(update, state, length=length)
    return state, jax.tree.map(mean, metrics)


def devices_for(seeds: int, available: Sequence[Any]) -> list[Any]:
    """Devices for so many seeds: as few as an even share needs, but some of every process.

    Raises:
        UserError: there are more processes than seeds.
    """
    processes = {device.process_index for device in available}
    if len(processes) > seeds:
        raise UserError(f"seeds is {seeds}; with {len(processes)} processes it must be at least {len(processes)}")
    height = -(-seeds // len(available))
    count = max(-(-seeds // height), len(processes))
    of_process = {number: [d for d in available if d.process_index == number] for number in sorted(processes)}
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*of_process.values()))
    taken = set([device for device in in_turn if device][:count])
    return [device for each in of_process.values() for device in each if device in taken]


def blocks(seeds: int, devices: int) -> list[int]:
    """Seeds on each device, equally many until they are dealt out: 5 on 3 devices are 2, 2 and 1."""
    height = -(-seeds // devices)
    return [min(max(seeds - device * height, 0), height) for device in range(devices)]


def _take(tree: Any, rows: Any) -> Any:
    """Some rows of every array, [rows, ...]."""
    return jax.tree.map(lambda x: x[rows], tree)


def _strongly_typed(x: jax.Array | float) -> jax.Array:
    """The same array without JAX's weak type, which a restored state lacks: one compilation serves both."""
    x = jnp.asarray(x)
    return jax.lax.convert_element_type(x, x.dtype) if x.weak_type else x
