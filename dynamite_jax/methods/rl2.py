"""RL^2 (Duan et al., 2016; Wang et al., 2016): recurrent memory, trained by the loss of the policy alone."""

import dataclasses
import math

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_jax.beliefs.belief import HistoryBelief
from dynamite_jax.config import Config
from dynamite_jax.networks.gru import GRU


class RecurrentPolicy(HistoryBelief):
    """Gradients of PPO flow through whole episodes into the recurrent network."""

    end_to_end = True


def build(config: Config, env: DLCMDP) -> RecurrentPolicy:
    """A recurrent network of the same size as the encoder of the other methods."""
    network = GRU(config.network.hidden, config.network.embedding)
    return RecurrentPolicy(network, config.network.hidden, env.action_space, env.observation_size)


def configure(config: Config) -> Config:
    """Whole episodes in minibatches, since the loss runs through them."""
    minibatches = math.gcd(config.num_envs, config.ppo.minibatches)
    return dataclasses.replace(config, ppo=config.ppo.replace(shuffle="episodes", minibatches=minibatches))
