"""The simplest belief that remembers: the state of a recurrent network."""

from dataclasses import dataclass
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_envs.spaces import Box, Discrete
from dynamite_jax.beliefs.belief import Belief, evidence
from dynamite_jax.config import Config
from dynamite_jax.data.types import Array, Params, Trajectories
from dynamite_jax.networks.gru import GRU


@dataclass(frozen=True)
class HistoryBelief(Belief):
    """Gives the policy the state of a recurrent network over the history.

    Attributes:
        network: a `networks.gru.GRU`, or a network with its `embed` and `recur`.
        units: G, numbers of the recurrent state.
        space: action space.
        observation_size: O.
    """

    network: nn.Module
    units: int
    space: Discrete | Box
    observation_size: int

    @classmethod
    def build(cls, config: Config, env: DLCMDP) -> Self:
        """A recurrent network of the same size as the encoder of other beliefs."""
        network = cls.make_network(config.network.hidden, config.network.embedding)
        return cls(
            network=network,
            units=config.network.hidden,
            space=env.action_space,
            observation_size=env.observation_size,
        )

    @staticmethod
    def make_network(hidden: int, embedding: int) -> nn.Module:
        """The network, with `hidden` units and an input layer of `embedding`."""
        return GRU(hidden, embedding)

    def init(self, key: Array) -> Params:
        """Parameters of the network."""
        observation, action = jnp.zeros((1, self.observation_size)), self.space.encode(self.space.zeros((1,)))
        return self.network.init(key, self.initial((1,)), observation, action, jnp.zeros(1))

    def _apply(self, params: Params, *inputs: Any, method: str) -> Any:
        """One of the network's functions."""
        return self.network.apply(params, *inputs, method=method)

    def initial(self, batch: tuple[int, ...]) -> Array:
        """No history, [*batch, G]."""
        return jnp.zeros((*batch, self.units))

    def update(self, params: Params, state: Array, observation: Array, action: Array, reward: Array) -> Array:
        """One step of the network, [E, G]."""
        gates = self._apply(params, observation, self.space.encode(action), reward, method="embed")
        return self._apply(params, state, gates, method="recur")

    def features(self, state: Array) -> Array:
        """The recurrent state itself, [E, G]."""
        return state

    def encode(self, params: Params, data: Trajectories) -> Array:
        """Recurrent states at the steps of episodes, [H, B, G]."""
        observation, action, reward = evidence(data)
        inputs = self._apply(params, observation, self.space.encode(action), reward, method="embed")

        def step(state: Array, gates: Array) -> tuple[Array, Array]:
            state = self._apply(params, state, gates, method="recur")
            return state, state

        return jax.lax.scan(step, self.initial((data.reward.shape[1],)), inputs)[1]


class EndToEndHistory(HistoryBelief):
    """A memory that the loss of the policy trains, through all steps of an episode."""

    end_to_end = True
