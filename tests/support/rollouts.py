"""Episodes of the small runs, played with their agents."""

from typing import Any

import jax

from conftest import build, tiny_config
from dynamite_jax.agents import running_statistics
from dynamite_jax.data.rollout import play
from dynamite_jax.data.types import Rollout
from episodes import statistics


def play_episode(program: Any, state: Any, key: Any) -> Rollout:
    """An episode of one seed in its environments."""
    return play(program.agent, program.env, state.agent_params, environment=state.environment, key=key)[0]


def play_with_statistics(method="dynamite", **ppo):
    """Config, program, the state of its first seed with running statistics unlike those of the start, an episode."""
    config = tiny_config("probe_match", method, ppo=ppo)
    program, states = build(config)
    state = jax.tree.map(lambda x: x[0], states)
    state = state.replace(
        normaliser=statistics(state.normaliser.mean.features.value.size, program.env.observation_size)
    )
    return config, program, state, play_episode(program, state, jax.random.key(1))


def moments(state) -> tuple[running_statistics.Quantities, running_statistics.Quantities]:
    """Means and deviations of all quantities."""
    quantities = [running_statistics.moments(state.normaliser, name) for name in running_statistics.Quantities._fields]
    means, deviations = zip(*quantities, strict=True)
    return running_statistics.Quantities(*means), running_statistics.Quantities(*deviations)
