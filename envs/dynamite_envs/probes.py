"""Probe environments: tiny problems whose best return is known in closed form, one for each ability.

A trainer that fails one of them has a bug, and the probe's name hints at where.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dynamite_envs.dlcmdp import Array, FiniteDLCMDP, check_probability
from dynamite_envs.spaces import Discrete


class ContextBandit(FiniteDLCMDP):
    """One state. Reward 1 when the action equals the context, or, with `match=False`, when the context is 1."""

    match: bool = struct.field(pytree_node=False, default=True)

    @property
    def observation_size(self) -> int:
        """A constant."""
        return 1

    @property
    def action_space(self) -> Discrete:
        """One action a context."""
        return Discrete(self.initial.shape[-1])

    def init_physics(self, key: Array) -> Array:
        """Nothing to draw."""
        return jnp.ones(1)

    def dynamics(self, physics: Array, context: Array, action: Array, key: Array) -> tuple[Array, Array, Array]:
        """Nothing moves."""
        return physics, self.reward(physics, physics, action, context), jnp.zeros((), bool)

    @property
    def relabels(self) -> bool:
        """Nothing moves under any context."""
        return True

    def reward(self, before: Array, after: Array, action: Array, context: Array) -> Array:
        """Pay for the right action, or for the context alone."""
        target = action if self.match else 1
        return (context == target).astype(jnp.float32)

    def observe(self, physics: Array) -> Array:
        """The constant."""
        return physics


class Memory(FiniteDLCMDP):
    """The first reward reveals the context, -1 or +1; only the last action can earn: 1 if it equals the context."""

    contexts = 2

    @property
    def observation_size(self) -> int:
        """Fraction of the episode that has passed."""
        return 1

    @property
    def action_space(self) -> Discrete:
        """Two actions."""
        return Discrete(2)

    def init_physics(self, key: Array) -> Array:
        """Steps made."""
        return jnp.zeros((), jnp.int32)

    def dynamics(self, physics: Array, context: Array, action: Array, key: Array) -> tuple[Array, Array, Array]:
        """Cue first, payment last, nothing between."""
        cue = jnp.where(physics == 0, 2.0 * context - 1.0, 0.0)
        payment = jnp.where(physics == self.horizon - 1, (action == context).astype(jnp.float32), 0.0)
        return physics + 1, cue + payment, jnp.zeros((), bool)

    def observe(self, physics: Array) -> Array:
        """Time in [0, 1]."""
        return (physics / self.horizon).astype(jnp.float32)[None]


class Leaving(FiniteDLCMDP):
    """Staying (action 0) pays 1 in context 1 and 0 in context 0; leaving (action 1) pays once and ends the episode.

    Attributes:
        leave: what leaving pays.
        end: probability that an episode ends after a step in which the agent stays.
    """

    contexts = 2
    leave: Array | float = struct.field(kw_only=True)
    end: Array | float = struct.field(kw_only=True)

    @property
    def observation_size(self) -> int:
        """Fraction of the episode that has passed."""
        return 1

    @property
    def action_space(self) -> Discrete:
        """Stay or leave."""
        return Discrete(2)

    def init_physics(self, key: Array) -> Array:
        """Steps made."""
        return jnp.zeros((), jnp.int32)

    def dynamics(self, physics: Array, context: Array, action: Array, key: Array) -> tuple[Array, Array, Array]:
        """Pay; end for good by choice or by chance."""
        leaves = action == 1
        reward = jnp.where(leaves, self.leave, context.astype(jnp.float32))
        return physics + 1, reward, leaves | jax.random.bernoulli(key, self.end)

    def observe(self, physics: Array) -> Array:
        """Time in [0, 1]."""
        return (physics / self.horizon).astype(jnp.float32)[None]


def context_reward(**fields) -> ContextBandit:
    """Reward from the context alone: no action matters and the best mean return is horizon / 2."""
    return match(**{"match": False, "kernel": [[0.5, 0.5], [0.5, 0.5]], **fields})


def match(**fields) -> ContextBandit:
    """The action must match a context that flips with p = 0.1: best mean return 0.5 + 0.9 (horizon - 1).

    Every reward reveals the context, and keeping it is right with probability 1 - p.
    """
    return ContextBandit(
        **{"p": 0.1, "horizon": 20, "initial": [0.5, 0.5], "kernel": [[0.0, 1.0], [1.0, 0.0]], **fields}
    )


def static(**fields) -> ContextBandit:
    """p = 0: one miss at most reveals the context for good; best mean return horizon - 0.5."""
    return match(**{"p": 0.0, **fields})


def pomdp(**fields) -> ContextBandit:
    """p = 1: the context flips after every step; best mean return horizon - 0.5."""
    return match(**{"p": 1.0, **fields})


def next_context(**fields) -> ContextBandit:
    """Contexts follow each other 0, 1, 2, 0, ...: after a miss the new one is known from the previous session.

    The first context is 0, so the best mean return is 1 + (1 - p) (horizon - 1); guessing among the two
    others after a miss loses half of the steps that follow one.
    """
    cycle = jnp.roll(jnp.eye(3), 1, axis=1)
    return match(**{"p": 0.2, "initial": [1.0, 0.0, 0.0], "kernel": cycle, **fields})


def memory(**fields) -> Memory:
    """The context must be remembered across horizon - 1 steps: best mean return 1 (the cue is 0 on average)."""
    uniform = [[0.5, 0.5], [0.5, 0.5]]
    return Memory(**{"p": 0.0, "horizon": 10, "initial": [0.5, 0.5], "kernel": uniform, **fields})


def termination(**fields) -> Leaving:
    """An episode ends by choice or, after 5 % of its steps, by chance: nothing after its end must be learnt from.

    It pays to look once, to stay in context 1, and to leave at once in context 0. Leaving pays no more than a step in
    context 1, since the horizon is a truncation to the learner, which knows of no last step.
    """
    values: dict[str, Any] = {
        "p": 0.0,
        "horizon": 10,
        "initial": [0.5, 0.5],
        "kernel": [[0.5, 0.5], [0.5, 0.5]],
        "leave": 1.0,
        "end": 0.05,
        **fields,
    }
    check_probability("end", values["end"])
    return Leaving(**values)
