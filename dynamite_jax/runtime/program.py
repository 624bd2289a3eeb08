"""Independent seeds: vmapped on each device, and spread over the available devices.

Where seeds leave devices over, several devices have the seeds of one row of the mesh in common, see `data.sharing`.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
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
from dynamite_jax.config import Config, ConfigError
from dynamite_jax.data.sharing import AXES, SEED
from dynamite_jax.methods import METHODS
from dynamite_jax.runtime import devices

SEEDS, SAME = PartitionSpec(SEED), PartitionSpec()


class Program:
    """The training program of one run: its seeds on its devices, its chunk compiled ahead of time.

    Arrays of all seeds are [rows, ...] on the devices of all processes, with the same number of rows on each. Row i is
    seed i; where the seeds don't divide evenly, the rows behind them repeat the last one. `gather` and `spread` convert
    rows to seeds and back.

    Attributes:
        config: the run, with the physics that is used.
        env: its environment, as the method observes it.
        algorithm: trains its agents.
        shares: devices that share the environments of each seed.
        blocks: seeds on each row of so many devices.
        mesh: the devices, with the axes `seed` and `env`.
        worlds: what the seeds learn in or from, one for each chunk, all of the same shapes: the environment, or
            recorded episodes of it.
        compile_s: seconds that compiling the chunk took; 0 before `compile`.
    """

    def __init__(self, config: Config, env: DLCMDP, share_envs: int | None = None):
        """Lay the seeds out over the devices; nothing is compiled yet.

        Args:
            config: the run.
            env: its environment.
            share_envs: devices that share the environments of each seed; by default as many as seeds leave over, but 1
                on CPUs, where devices are threads that the operations of one would use as well.

        Raises:
            UserError: the run can't be computed with this JAX, or on these devices.
        """
        config = configs.settled(config, env)
        if reason := devices.unusable_here(mjx=hasattr(env, "simulator") and config.physics.impl == "jax"):
            raise UserError(reason)
        method = METHODS[config.method]
        self.config, self.env = config, method.environment(env)
        agent = Agent.build(config, self.env, method.build(config, self.env))
        self.algorithm: Algorithm = method.learner(config, agent)
        offline = config.setting == "offline"
        if offline and share_envs not in (None, 1):
            raise UserError(f"share_envs is {share_envs}; with setting 'offline' it must be 1")
        default = 1 if offline else shares_for(config, jax.devices())
        self.shares = default if share_envs is None else share_envs
        if self.shares > 1 and _calls_python(env):
            if share_envs is not None:
                raise UserError(f"share_envs is {share_envs}; a step of {config.env} calls Python, so it must be 1")
            self.shares = 1
        grid = devices_for(config.seeds, jax.devices(), self.shares)
        if config.num_envs % self.shares:
            raise ConfigError(f"num_envs is {config.num_envs}; it must be a multiple of share_envs, {self.shares}")
        self.blocks = blocks(config.seeds, len(grid))
        self.mesh = Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
        self._seed_of_row = np.minimum(np.arange(max(self.blocks) * len(grid)), config.seeds - 1)
        # Kept, since a function that is made for each call would be compiled for each call.
        self._take = jax.jit(_take, out_shardings=NamedSharding(self.mesh, SAME))
        self.worlds: Iterator[Any] = itertools.repeat(self.env)
        self._ahead: list[Any] = []  # a world that was looked at before its chunk
        self.compile_s = 0.0

    def replicated(self, tree: Any) -> Any:
        """Arrays that every device has."""
        return jax.device_put(tree, NamedSharding(self.mesh, SAME))

    @property
    def agent(self) -> Agent:
        """The agent that is trained."""
        return self.algorithm.agent

    @property
    def layout(self) -> str:
        """The seeds on their devices in words."""
        count, total = self.mesh.size, jax.device_count()
        number = f"{count} of {total} devices" if count < total else f"{total} device{'s' * (total > 1)}"
        each = "+".join(map(str, self.blocks)) if self.padded else f"{self.blocks[0]} each"
        if jax.process_count() > 1:
            number += f" of {jax.process_count()} processes"
        seeds = f"{self.config.seeds} seed{'s' * (self.config.seeds > 1)}"
        if self.shares > 1:
            each += f", the environments of each on {self.shares}"
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

        def chunk_of_device(world: Any, hyper: Any, states: Any) -> tuple[Any, Metrics]:
            chunk_of_seed = partial(chunk, self.algorithm, self.config.chunk, mean=mean)
            return jax.vmap(chunk_of_seed, in_axes=(None, hyper_axis, 0))(world, hyper, states)

        sharded = jax.shard_map(
            chunk_of_device,
            mesh=self.mesh,
            in_specs=(SAME, hyper_spec, SEEDS),
            out_specs=SEEDS,
            axis_names={SEED} if self.shares > 1 else set(AXES),  # what is not named the compiler splits
            check_vma=False,
        )
        # Between chunks every device of a seed has all of its state, so that any layout goes on with it.
        placed: dict[str, Any] = {} if self.shares == 1 else {"out_shardings": NamedSharding(self.mesh, SEEDS)}
        self._ahead = self._ahead or [next(self.worlds)]
        traced = jax.jit(sharded, donate_argnums=2, **placed).trace(self._ahead[0], hyper, states)
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
        chunk_of_rows = partial(self._run, executable, self.algorithm.hyper if hyper is None else hyper)
        if not self.padded and jax.process_count() == 1:
            return chunk_of_rows

        def chunk_of_seeds(states: Any) -> tuple[Any, Metrics]:
            states, metrics = chunk_of_rows(states)
            return states, self.gather(metrics)

        return chunk_of_seeds

    def _run(self, executable: Callable, hyper: Any, states: Any) -> tuple[Any, Metrics]:
        """A chunk in the next world."""
        return executable(self._ahead.pop() if self._ahead else next(self.worlds), hyper, states)

    @property
    def chunks(self) -> int:
        """Number of chunks in the run."""
        return -(-self.config.meta_updates(self.env.horizon) // self.config.chunk)

    @property
    def steps_per_chunk(self) -> int:
        """Environment steps of one seed in one chunk."""
        return self.config.chunk * self.config.num_envs * self.env.horizon


def chunk(
    algorithm: Algorithm, length: int, world: Any, hyper: Any, state: Any, mean: Callable = jnp.mean
) -> tuple[Any, Metrics]:
    """`length` updates of one seed, the `mean` of each metric, and what is measured after them."""

    def update(state: Any, _: None) -> tuple[Any, Metrics]:
        return algorithm.update(world, hyper, state)

    state, metrics = jax.lax.scan(update, state, length=length)
    return state, jax.tree.map(mean, metrics) | algorithm.measure(world, state)


def shares_for(config: Config, available: Sequence[Any]) -> int:
    """Devices that share the environments of each seed by default: those that seeds leave over, on CPUs 1."""
    of_process = _of_processes(available)
    if available[0].platform == "cpu":
        return 1

    def possible(shares: int) -> bool:
        rows = sum(len(each) // shares for each in of_process)
        return config.num_envs % shares == 0 and rows >= config.seeds

    return max(filter(possible, range(1, _fewest(available) + 1)), default=1)


def devices_for(seeds: int, available: Sequence[Any], shares: int = 1) -> np.ndarray:
    """Devices for so many seeds, [rows, shares]: as few rows as an even share needs, but some of every process.

    Args:
        seeds: how many.
        available: devices of all processes.
        shares: devices in a row, all of one process.

    Raises:
        UserError: there are more processes than seeds, or a process has fewer devices than a row.
    """
    of_process = _of_processes(available)
    if len(of_process) > seeds:
        raise UserError(f"seeds is {seeds}; with {len(of_process)} processes it must be at least {len(of_process)}")
    if not 1 <= shares <= _fewest(available):
        raise UserError(f"share_envs is {shares}; it must be from 1 to {_fewest(available)}, the devices of a process")
    rows = [[each[i : i + shares] for i in range(0, len(each) - shares + 1, shares)] for each in of_process]
    height = -(-seeds // sum(map(len, rows)))
    count = max(-(-seeds // height), len(of_process))
    in_turn = [row for of_each in itertools.zip_longest(*rows) for row in of_each if row]
    return np.array(sorted(in_turn[:count], key=lambda row: row[0].process_index))


def _of_processes(available: Sequence[Any]) -> list[list[Any]]:
    """Devices of each process."""
    numbers = sorted({device.process_index for device in available})
    return [[device for device in available if device.process_index == number] for number in numbers]


def _fewest(available: Sequence[Any]) -> int:
    """Devices of the process that has the fewest."""
    return min(map(len, _of_processes(available)))


def blocks(seeds: int, devices: int) -> list[int]:
    """Seeds on each device, equally many until they are dealt out: 5 on 3 devices are 2, 2 and 1."""
    height = -(-seeds // devices)
    return [min(max(seeds - device * height, 0), height) for device in range(devices)]


def _calls_python(env: DLCMDP) -> bool:
    """Whether a step of an environment leaves the compiled program, by a callback of JAX."""
    state = jax.eval_shape(env.reset, jax.random.key(0))
    return "callback" in str(jax.make_jaxpr(env.step)(state, env.action_space.zeros(())))


def _take(tree: Any, rows: Any) -> Any:
    """Some rows of every array, [rows, ...]."""
    return jax.tree.map(lambda x: x[rows], tree)


def _strongly_typed(x: jax.Array | float) -> jax.Array:
    """The same array without JAX's weak type, which a restored state lacks: one compilation serves both."""
    x = jnp.asarray(x)
    return jax.lax.convert_element_type(x, x.dtype) if x.weak_type else x
