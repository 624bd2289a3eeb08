"""Environments made of environments."""

from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import struct

from dynamite_envs.dlcmdp import DLCMDP, Array, Context, Physics, State
from dynamite_envs.spaces import Box, Discrete


class Wrapper(DLCMDP):
    """An environment whose episodes are those of another one, for the same key and actions.

    Attributes:
        env: the other one.
    """

    env: DLCMDP = struct.field(kw_only=True)

    @classmethod
    def of(cls, env: DLCMDP) -> Self:
        """An environment, wrapped."""
        return cls(p=env.p, horizon=env.horizon, reset_on_switch=env.reset_on_switch, env=env)

    @property
    def unwrapped(self) -> DLCMDP:
        """The environment itself."""
        return self.env.unwrapped

    @property
    def observation_size(self) -> int:
        """That of the environment."""
        return self.env.observation_size

    @property
    def action_space(self) -> Discrete | Box:
        """That of the environment."""
        return self.env.action_space

    @property
    def decode_state(self) -> bool:
        """As in the environment."""
        return self.env.decode_state

    def init_physics(self, key: Array) -> Physics:
        """As in the environment."""
        return self.env.init_physics(key)

    def init_context(self, key: Array) -> Context:
        """As in the environment."""
        return self.env.init_context(key)

    def next_context(self, key: Array, context: Context) -> Context:
        """As in the environment."""
        return self.env.next_context(key, context)

    def dynamics(self, physics: Physics, context: Context, action: Array, key: Array) -> tuple[Physics, Array, Array]:
        """As in the environment."""
        return self.env.dynamics(physics, context, action, key)

    def observe(self, physics: Physics) -> Array:
        """As in the environment."""
        return self.env.observe(physics)

    def context_features(self, context: Context) -> Array:
        """Those of the environment."""
        return self.env.context_features(context)

    @property
    def relabels(self) -> bool:
        """As in the environment."""
        return self.env.relabels

    def reward(self, before: Physics, after: Physics, action: Array, context: Context) -> Array:
        """As in the environment."""
        return self.env.reward(before, after, action, context)

    def outcomes(self, physics: Physics) -> dict[str, Array]:
        """Those of the environment."""
        return self.env.outcomes(physics)

    def reset(self, key: Array) -> State:
        """Start an episode of the environment."""
        return self._numbered().reset(key)

    def step(self, state: State, action: Array) -> State:
        """Act in the environment."""
        return self._numbered().step(state, action)

    def _numbered(self) -> DLCMDP:
        """The environment, with the numbers that this one may have been given since."""
        return self.env.replace(p=self.p, horizon=self.horizon, reset_on_switch=self.reset_on_switch)


class ObserveContext(Wrapper):
    """Observes the context: the observation ends with the features of the context that the next step will have."""

    @property
    def observation_size(self) -> int:
        """That of the environment, and one for each feature of the context."""
        features = jax.eval_shape(self._features, jax.random.key(0))
        return self.env.observation_size + features.shape[0]

    def reset(self, key: Array) -> State:
        """Start an episode; its first context is observed."""
        return self._with_context(super().reset(key))

    def step(self, state: State, action: Array) -> State:
        """Act; the context after the switch is observed, if there was one."""
        return self._with_context(super().step(state, action))

    def shown(self, observation: Array, context: Context) -> Array:
        """The environment's observation with the features of the context behind it."""
        return jnp.concatenate([observation, self.env.context_features(context)])

    def _with_context(self, state: State) -> State:
        return state.replace(obs=self.shown(state.obs, state.context))

    def _features(self, key: Array) -> Any:
        return self.env.context_features(self.env.init_context(key))


class ObserveFeedback(Wrapper):
    """Observes the last step: the observation ends with the action, one-hot where it is discrete, and its reward.

    What a policy with a memory needs beside states to infer the context, and is given by no trainer that takes
    observations alone. Both are 0 at the start of an episode.
    """

    @property
    def observation_size(self) -> int:
        """That of the environment, the length of an action, and one."""
        return self.env.observation_size + self.env.action_space.size + 1

    def reset(self, key: Array) -> State:
        """Start an episode; there is no last step yet."""
        state = super().reset(key)
        return state.replace(obs=jnp.concatenate([state.obs, jnp.zeros(self.env.action_space.size + 1)]))

    def step(self, state: State, action: Array) -> State:
        """Act; the action that was executed and what it paid are observed."""
        state = super().step(state, action)
        return state.replace(obs=jnp.concatenate([state.obs, self.env.action_space.encode(action), state.reward[None]]))
