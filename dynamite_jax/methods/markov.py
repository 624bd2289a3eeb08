"""No memory: the policy sees the observation alone. The lower reference."""

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_jax.beliefs.belief import Belief
from dynamite_jax.config import Config


def build(config: Config, env: DLCMDP) -> Belief:
    """The same for every environment."""
    return Belief()


def configure(config: Config) -> Config:
    """Nothing to change."""
    return config
