"""A DLCMDP of a brax environment: a context that changes decides its reward or the parameters of its system."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from brax.envs.base import Env
from brax.envs.base import State as BraxState
from flax import struct

from dynamite_envs.dlcmdp import DLCMDP, Array, Context
from dynamite_envs.errors import UserError
from dynamite_envs.hooks import ContextHooks, OfHooks
from dynamite_envs.spaces import Box

SYSTEMS = ("sys", "_mjx_model")
"""Where a body keeps the parameters of its physics: in brax, and in Playground, whose randomisation of them uses it."""


def _system_of(body: Any) -> str | None:
    """The one of `SYSTEMS` that a body has; None where its physics has no parameters."""
    return next((name for name in SYSTEMS if hasattr(body, name)), None)


class BraxDLCMDP(DLCMDP):
    """The body is brax's, the context ours. A subclass gives `init_context`, `next_context` and `context_features`.

    Attributes:
        body: the environment, without brax's wrappers: the end of the horizon is ours.
    """

    body: Any = struct.field(pytree_node=False, kw_only=True)

    def reward(self, before: BraxState, after: BraxState, action: Array, context: Context) -> Array:
        """Of a step, []; that of brax by default."""
        return after.reward

    def system(self, context: Context) -> Any:
        """Parameters of the body's physics under a context; its own by default."""
        return getattr(self.body, _system_of(self.body) or SYSTEMS[0])

    @property
    def observation_size(self) -> int:
        """That of the body."""
        return self.body.observation_size

    @property
    def action_space(self) -> Box:
        """That of the body, whose actions lie in [-1, 1]."""
        return Box(self.body.action_size)

    def init_physics(self, key: Array) -> BraxState:
        """As the body resets."""
        return self.body.reset(key)

    def dynamics(
        self, physics: BraxState, context: Context, action: Array, key: Array
    ) -> tuple[BraxState, Array, Array]:
        """A step of the body under the context; the task ends where brax is done."""
        body = self.body
        if name := _system_of(body):
            body = copy.copy(body)
            setattr(body, name, self.system(context))
        after = body.step(physics, action)
        return after, self.reward(physics, after, action, context), after.done > 0

    def observe(self, physics: BraxState) -> Array:
        """The body's observation."""
        return jnp.asarray(physics.obs)


@dataclass(frozen=True)
class Hooks(ContextHooks):
    """The functions that `from_brax` is given."""

    reward: Callable[[BraxState, BraxState, Array, Context], Array] | None
    system: Callable[[Any, Context], Any] | None


class _OfFunctions(OfHooks, BraxDLCMDP):
    """A body under hooks that are functions."""

    @property
    def decode_state(self) -> bool:
        """Whether the context changes the system."""
        return self.hooks.system is not None

    def reward(self, before: BraxState, after: BraxState, action: Array, context: Context) -> Array:
        """By the function, or brax's."""
        if self.hooks.reward is None:
            return super().reward(before, after, action, context)
        return self.hooks.reward(before, after, action, context)

    def system(self, context: Context) -> Any:
        """By the function, or the body's own."""
        own = super().system(context)
        return own if self.hooks.system is None else self.hooks.system(own, context)


def from_brax(
    body: Env,
    *,
    init_context: Callable[[Array], Context],
    next_context: Callable[[Array, Context], Context],
    reward: Callable[[BraxState, BraxState, Array, Context], Array] | None = None,
    system: Callable[[Any, Context], Any] | None = None,
    features: Callable[[Context], Array] = jnp.atleast_1d,
    p: float = 0.02,
    horizon: int = 200,
    reset_on_switch: bool = False,
) -> DLCMDP:
    """A DLCMDP of a brax environment.

    Args:
        body: the environment, as `brax.envs.get_environment` makes it: without wrappers.
        init_context: key -> the first context.
        next_context: (key, context) -> that of the next session.
        reward: (brax's state before, after, action, context) -> reward of the step, []; by default brax's own.
        system: (parameters of the body's physics, context) -> those of the context, of the same structure. In brax
            these are the body's `sys`, in Playground its `mjx_model`.
        features: context -> numbers, [C], for agents that observe it.
        p: probability that the context is drawn anew after a step.
        horizon: steps of an episode.
        reset_on_switch: whether the body is reset when the context changes.

    Raises:
        UserError: the body is wrapped, shows no plain vector, or has no system to change; or the context would change
            nothing.
    """
    if body.unwrapped is not body:
        raise UserError(f"body is {type(body).__name__}; it must be an environment of brax without wrappers")
    if not isinstance(body.observation_size, int):
        raise UserError(
            f"body is {type(body).__name__}, whose observations are {body.observation_size}; it must show a vector"
        )
    if reward is None and system is None:
        raise UserError("reward and system are None; one of them must depend on the context")
    if system is not None and _system_of(body) is None:
        raise UserError(f"body is {type(body).__name__}, which has no {' or '.join(SYSTEMS)}; system must be None")
    hooks = Hooks(init_context, next_context, features=features, reward=reward, system=system)
    return _OfFunctions(p=p, horizon=horizon, reset_on_switch=reset_on_switch, body=body, hooks=hooks)
