"""RL^2 (Duan et al., 2016; Wang et al., 2016): recurrent memory, trained by the loss of the policy alone."""

import dataclasses
import math

from dynamite_jax.config import Config
from dynamite_jax.methods.method import Method


def configure(config: Config) -> Config:
    """Episodes in minibatches, since the loss runs through them."""
    minibatches = math.gcd(config.num_envs, config.ppo.minibatches)
    return dataclasses.replace(config, ppo=config.ppo.replace(shuffle="episodes", minibatches=minibatches))


METHOD = Method(
    belief="dynamite_jax.beliefs.history:EndToEndHistory.build",
    configure=configure,
    settings=("online",),
    shuffles=("episodes",),
)
