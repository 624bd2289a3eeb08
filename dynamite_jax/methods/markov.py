"""No memory: the policy sees the observation alone. The lower reference."""

from dynamite_jax.belief import Belief
from dynamite_jax.config import Config
from envs.dlcmdp import DLCMDP


def build(config: Config, env: DLCMDP) -> Belief:
    """The same for every environment."""
    return Belief()


def configure(config: Config) -> Config:
    """Nothing to change."""
    return config
