"""Episodes to learn beliefs from, with what is hidden in them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

import dynamite_jax as dj
from dynamite_envs.dlcmdp import DLCMDP, Context, Physics, State
from dynamite_envs.scratch_itch.env import ScratchItch, itch_frame
from dynamite_envs.spaces import Discrete
from dynamite_jax.beliefs import elbo
from dynamite_jax.data.rollout import play
from dynamite_jax.data.types import Array, Trajectories


class Episodes(struct.PyTreeNode):
    """N episodes, time-major.

    Attributes:
        trajectories: what beliefs learn from, in units, [H(+1), N, ...]; contexts are left out.
        physics: physical states s_0 .. s_{H-1}, [H, N, ...].
        context: under which each step is made, [H, N, ...].
        facts: what is to be known of it, see `facts`, [H, N, D].
    """

    trajectories: Trajectories
    physics: Physics
    context: Context
    facts: Array

    @property
    def since(self) -> Array:
        """Steps that each step's session has had before it, [H, N]."""
        session = self.trajectories.session
        return jnp.arange(len(session))[:, None] - elbo.session_bounds(session).first

    def part(self, first: int, last: int) -> "Episodes":
        """Some of the episodes, those from `first` to before `last`."""
        return jax.tree.map(lambda x: x[:, first:last], self)


def facts(env: DLCMDP, physics: Physics, context: Context) -> Array:
    """The context in numbers, [D]: what `oracle` observes and, in scratch_itch, where it itches in cm behind it."""
    features = env.context_features(context)
    if isinstance(env, ScratchItch):
        return jnp.concatenate([features, 100.0 * itch_frame(physics.female, context)[0]])
    return features


def place(env: DLCMDP) -> slice:
    """Those of the `facts` whose distance from the truth is the error of a belief."""
    return slice(-3, None) if isinstance(env, ScratchItch) else slice(None)


def of_random_actions(env: DLCMDP, episodes: int, deviation: float, key: Array) -> Episodes:
    """Play actions that depend on nothing: normal ones of a deviation, or all alike where they are discrete."""
    space = env.action_space
    reset_key, key = jax.random.split(key)

    def step(before: State, key: Array) -> tuple[State, tuple[State, Array]]:
        if isinstance(space, Discrete):
            action = jax.random.randint(key, (episodes,), 0, space.size)
        else:
            action = space.clip(deviation * jax.random.normal(key, (episodes, space.size)))
        return jax.vmap(env.step)(before, action), (before, action)

    start = jax.vmap(env.reset)(jax.random.split(reset_key, episodes))
    end, (states, action) = jax.lax.scan(step, start, jax.random.split(key, env.horizon))
    return _of(env, jax.tree.map(lambda x, last: jnp.concatenate([x, last[None]]), states, end), action)


def of_run(run: dj.Run, episodes: int, key: Array) -> Episodes:
    """Play the policy of a run's first seed, as in training."""
    policy, env = run.policy(), run.program.env.unwrapped
    reset_key, key = jax.random.split(key)
    start = jax.vmap(run.program.env.reset)(jax.random.split(reset_key, episodes))
    rollout, states, _ = play(policy.agent, run.program.env, policy.params, environment=start, key=key)
    states = states.replace(obs=jax.vmap(jax.vmap(env.observe))(states.physics))
    return _of(env, states, rollout.action)


def _of(env: DLCMDP, states: State, action: Array) -> Episodes:
    """Episodes from the states s_0 .. s_H, [H + 1, N, ...], and the actions between them."""
    before: Any = jax.tree.map(lambda x: x[:-1], states)
    trajectories = Trajectories(
        observation=states.obs,
        action=action,
        reward=states.reward[1:],
        session=before.session,
        valid=~before.terminated,
    )
    known = jax.vmap(jax.vmap(partial(facts, env)))(before.physics, before.context)
    return Episodes(trajectories, before.physics, before.context, known)
