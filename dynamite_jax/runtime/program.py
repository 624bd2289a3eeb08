"""Seeds side by side: vmapped on each device, and spread over the devices there are."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_jax.algorithms import meta_ppo as train_step
from dynamite_jax.config import Config
from dynamite_jax.data.rollout import Agent
from dynamite_jax.data.types import TrainState
from dynamite_jax.runtime.devices import largest_divisor

SEEDS, SAME = PartitionSpec("seed"), PartitionSpec()


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
        devices = jax.devices()[: largest_divisor(config.seeds, jax.device_count())]
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
