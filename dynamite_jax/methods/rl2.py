"""RL^2 (Duan et al., 2016; Wang et al., 2016): recurrent memory, trained by the loss of the policy alone."""

from dynamite_jax.belief import HistoryBelief
from dynamite_jax.config import Config
from dynamite_jax.networks import GRU
from envs.dlcmdp import DLCMDP


class RecurrentPolicy(HistoryBelief):
    """Gradients of PPO flow through whole episodes into the recurrent network."""

    end_to_end = True


def build(config: Config, env: DLCMDP) -> RecurrentPolicy:
    """A recurrent network of the same size as the encoder of the other methods."""
    network = GRU(config.network.hidden, config.network.embedding)
    return RecurrentPolicy(network, config.network.hidden, env.action_space, env.observation_size)


def configure(config: Config) -> Config:
    """Nothing to change."""
    return config
