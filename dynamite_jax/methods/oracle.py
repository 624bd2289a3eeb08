"""The true context is given to policy and critic: the upper reference."""

from dataclasses import dataclass

import jax

from dynamite_envs.dlcmdp import DLCMDP, State
from dynamite_jax.beliefs.belief import Belief
from dynamite_jax.config import Config
from dynamite_jax.data.types import Array


@dataclass(frozen=True)
class TrueContext(Belief):
    """Shows the policy the context itself."""

    env: DLCMDP
    told = True

    def features(self, state: Array, environment: State) -> Array:
        """Features of the context that the next step will have, [E, C]."""
        return jax.vmap(self.env.context_features)(environment.context)


def build(config: Config, env: DLCMDP) -> TrueContext:
    """The environment knows how its context is shown."""
    return TrueContext(env)


def configure(config: Config) -> Config:
    """Nothing to change."""
    return config
