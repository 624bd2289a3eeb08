"""A DLCMDP of a gymnax environment: a context that changes decides its reward or its parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dynamite_envs.dlcmdp import DLCMDP, Array, Context
from dynamite_envs.errors import UserError
from dynamite_envs.hooks import ContextHooks, OfHooks
from dynamite_envs.spaces import Box, Discrete


class GymnaxState(struct.PyTreeNode):
    """gymnax's state, and the observation of it as a vector, [O]."""

    state: Any
    observation: Array


@dataclass(frozen=True)
class Hooks(ContextHooks):
    """The functions that `from_gymnax` is given."""

    reward: Callable[[Any, Any, Array, Array, Context], Array] | None
    params: Callable[[Any, Context], Any] | None


class GymnaxDLCMDP(OfHooks):
    """The body is gymnax's, the context ours.

    Attributes:
        body: gymnax's environment; its own limit of steps counts for nothing.
        defaults: its parameters.
        hooks: the functions.
        low, high: bounds of continuous actions, which ours, in [-1, 1], are scaled to; None of discrete ones.
    """

    defaults: Any = struct.field(kw_only=True)
    low: Array | None = struct.field(kw_only=True, default=None)
    high: Array | None = struct.field(kw_only=True, default=None)
    body: Any = struct.field(pytree_node=False, kw_only=True)

    @property
    def observation_size(self) -> int:
        """Of all numbers that the body shows."""
        return jax.eval_shape(self.init_physics, jax.random.key(0)).observation.shape[0]

    @property
    def action_space(self) -> Discrete | Box:
        """As many actions as the body has."""
        return Discrete(int(self.body.num_actions)) if self.low is None else Box(self.low.shape[0])

    @property
    def decode_state(self) -> bool:
        """Whether the context changes the body's parameters."""
        return self.hooks.params is not None

    def init_physics(self, key: Array) -> GymnaxState:
        """As the body resets."""
        observation, state = self.body.reset_env(key, self.defaults)
        return GymnaxState(state, _vector(observation))

    def dynamics(
        self, physics: GymnaxState, context: Context, action: Array, key: Array
    ) -> tuple[GymnaxState, Array, Array]:
        """A step of the body under the context; the task ends where the body's does."""
        if self.low is not None and self.high is not None:
            action = self.low + 0.5 * (action + 1.0) * (self.high - self.low)
        params = self.defaults if self.hooks.params is None else self.hooks.params(self.defaults, context)
        observation, state, reward, terminated, _ = self.body.step_env(key, physics.state, action, params)
        if self.hooks.reward is not None:
            reward = self.hooks.reward(physics.state, state, action, reward, context)
        # Of the same types as before, whatever the body returns.
        state = jax.tree.map(lambda new, old: jnp.asarray(new, jnp.asarray(old).dtype), state, physics.state)
        return GymnaxState(state, _vector(observation)), jnp.asarray(reward, jnp.float32), jnp.asarray(terminated, bool)

    def observe(self, physics: GymnaxState) -> Array:
        """The body's observation as a vector."""
        return physics.observation


def _vector(observation: Any) -> Array:
    return jnp.concatenate([jnp.ravel(x).astype(jnp.float32) for x in jax.tree.leaves(observation)])


def from_gymnax(
    body: Any,
    defaults: Any,
    *,
    init_context: Callable[[Array], Context],
    next_context: Callable[[Array, Context], Context],
    reward: Callable[[Any, Any, Array, Array, Context], Array] | None = None,
    params: Callable[[Any, Context], Any] | None = None,
    features: Callable[[Context], Array] = jnp.atleast_1d,
    p: float = 0.02,
    horizon: int = 200,
    reset_on_switch: bool = False,
) -> DLCMDP:
    """A DLCMDP of a gymnax environment, as in `from_gymnax(*gymnax.make("CartPole-v1"), ...)`.

    Args:
        body: the environment.
        defaults: its parameters.
        init_context: key -> the first context.
        next_context: (key, context) -> that of the next session.
        reward: (gymnax's state before, after, action, gymnax's reward, context) -> reward of the step, []; by default
            gymnax's own.
        params: (`defaults`, context) -> the body's parameters under the context.
        features: context -> numbers, [C], for agents that observe it.
        p: probability that the context is drawn anew after a step.
        horizon: steps of an episode.
        reset_on_switch: whether the body is reset when the context changes.

    Raises:
        UserError: the context would change nothing.
    """
    if reward is None and params is None:
        raise UserError("reward and params are None; one of them must depend on the context")
    space = body.action_space(defaults)
    bounds = {}
    if not hasattr(space, "n"):
        shape = (int(jnp.prod(jnp.array(space.shape, int))),)
        bounds = {name: jnp.broadcast_to(jnp.ravel(getattr(space, name)), shape) for name in ("low", "high")}
    hooks = Hooks(init_context, next_context, features=features, reward=reward, params=params)
    return GymnaxDLCMDP(
        p=p, horizon=horizon, reset_on_switch=reset_on_switch, body=body, defaults=defaults, hooks=hooks, **bounds
    )
