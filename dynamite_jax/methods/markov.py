"""No memory: the policy sees the observation alone. The lower reference."""

from dataclasses import dataclass

import jax.numpy as jnp

from dynamite_jax.config import Config
from dynamite_jax.types import Array
from envs.dlcmdp import DLCMDP, State


@dataclass(frozen=True)
class NoBelief:
    """A belief with nothing in it and nothing to learn."""

    learns = False

    def init(self, key: Array) -> dict:
        """No parameters."""
        return {}

    def initial(self, batch: tuple[int, ...]) -> Array:
        """No numbers for each environment."""
        return jnp.zeros((*batch, 0))

    def update(self, params: dict, state: Array, observation: Array, action: Array, reward: Array) -> Array:
        """Nothing is remembered."""
        return state

    def features(self, state: Array, environment: State) -> Array:
        """The policy sees nothing more, [E, 0]."""
        return state

    def boundary(self, state: Array) -> Array:
        """No boundary is ever seen, [E]."""
        return jnp.zeros(state.shape[:-1], bool)


def build(config: Config, env: DLCMDP) -> NoBelief:
    """The same for every environment."""
    return NoBelief()


def configure(config: Config) -> Config:
    """Nothing to change."""
    return config
