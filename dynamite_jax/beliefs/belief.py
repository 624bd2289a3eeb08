"""What a belief is to the agent, and the simplest one that remembers: the state of a recurrent network."""

from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynamite_envs.spaces import Box, Discrete
from dynamite_jax.config import VAEConfig
from dynamite_jax.data.types import Array, Params, Trajectories


class Belief:
    """How an agent starts without knowledge, takes in evidence, shows what it knows to the policy, and learns.

    A method builds one. The belief itself is immutable; its parameters and its state are pytrees given to it. It meets
    observations and rewards in deviations from their running means (`Agent.evidence`), whatever their units are. As
    it stands here it has no parameters, remembers nothing and shows nothing.

    Attributes:
        learns: whether it has a `loss` of its own; then it is updated before the policy, by `VAEConfig`.
        end_to_end: whether the loss of the policy trains it; then `encode` is called inside that loss.
        detects: whether `boundary` says anything.
        decodes: whether it has `decode_reward`, so that evaluation can compare it with an exact posterior.
    """

    learns: ClassVar[bool] = False
    end_to_end: ClassVar[bool] = False
    decodes: ClassVar[bool] = False

    @property
    def detects(self) -> bool:
        """Not here."""
        return False

    def init(self, key: Array) -> Params:
        """Parameters."""
        return {}

    def initial(self, batch: tuple[int, ...]) -> Any:
        """State before the first observation, [*batch, ...]."""
        return jnp.zeros(batch, bool)  # not of size 0: such arrays lose their place among devices

    def update(self, params: Params, state: Any, observation: Array, action: Array, reward: Array) -> Any:
        """Take in (s_t, a_{t-1}, r_{t-1}), [E, O], [E, ...], [E]; zero action and reward at t = 0."""
        return state

    def features(self, state: Any) -> Array:
        """What policy and critic see, [E, F]."""
        return jnp.zeros((*jax.tree.leaves(state)[0].shape[:1], 0))

    def boundary(self, state: Any) -> Array:
        """Whether the newest evidence is taken to come from a new session, [E]. Never, unless told otherwise."""
        return jnp.zeros(jax.tree.leaves(state)[0].shape[:1], bool)

    def shown(self, state: Any) -> Any:
        """What evaluation keeps of the state at every step, for `decode_reward`."""
        return ()

    def encode(self, params: Params, data: Trajectories) -> Any:
        """States at the steps of whole episodes, [H, B, ...], exactly as when acting; where something learns."""
        raise NotImplementedError  # of a belief that neither learns nor is trained end to end

    def decode_reward(
        self, params: Params, shown: Any, key: Array, observation: Array, action: Array, following: Array
    ) -> Array:
        """Expected reward of k steps under one belief, [k, O], [k, ...], [k, O] -> [k]; where it `decodes`."""
        raise NotImplementedError  # of a belief that says nothing of rewards

    def loss(self, params: Params, data: Trajectories, key: Array, hyper: VAEConfig) -> tuple[Array, dict[str, Array]]:
        """Scalar loss on whole episodes and its named terms; where `learns`."""
        raise NotImplementedError  # of a belief that does not learn by itself


def evidence(space: Discrete | Box, data: Trajectories) -> tuple[Array, Array, Array]:
    """What the belief takes in at each step: s_t, a_{t-1} encoded, r_{t-1}, [H, B, ...].

    Before the first step stand an encoded zero action and no reward, the same that the rollout feeds.
    """
    batch = data.reward.shape[1]
    action = jnp.concatenate([space.encode(space.zeros((1, batch))), space.encode(data.action)[:-1]])
    reward = jnp.concatenate([jnp.zeros((1, batch)), data.reward[:-1]])
    return data.observation[:-1], action, reward


@dataclass(frozen=True)
class HistoryBelief(Belief):
    """Shows the policy the state of a recurrent network over the history; nothing says what its numbers mean.

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
        """Recurrent states at the steps of whole episodes, [H, B, G]."""
        inputs = self._apply(params, *evidence(self.space, data), method="embed")

        def step(state: Array, gates: Array) -> tuple[Array, Array]:
            state = self._apply(params, state, gates, method="recur")
            return state, state

        return jax.lax.scan(step, self.initial((data.reward.shape[1],)), inputs)[1]
