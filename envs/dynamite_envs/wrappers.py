"""Environments made of environments."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dynamite_envs.dlcmdp import DLCMDP, Array, Context, Physics, State
from dynamite_envs.spaces import Box, Discrete


class ObserveContext(DLCMDP):
    """Observes the context: the observation ends with the features of the context that the next step will have.

    Attributes:
        env: whose context it is. Episodes are the same as there, for the same key and actions.
    """

    env: DLCMDP = struct.field(kw_only=True)

    @classmethod
    def of(cls, env: DLCMDP) -> "ObserveContext":
        """An environment with its context observed."""
        return cls(p=env.p, horizon=env.horizon, reset_on_switch=env.reset_on_switch, env=env)

    @property
    def unwrapped(self) -> DLCMDP:
        """The environment itself."""
        return self.env.unwrapped

    @property
    def observation_size(self) -> int:
        """That of the environment, and one for each feature of the context."""
        features = jax.eval_shape(self._features, jax.random.key(0))
        return self.env.observation_size + features.shape[0]

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
        """The environment's observation; `reset` and `step` add the context, which physics do not hold."""
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
