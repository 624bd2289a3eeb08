"""Episodes to learn beliefs from, with what is to be known of them."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

import dynamite_jax as dj
from dynamite_envs.dlcmdp import DLCMDP, Context, Physics
from dynamite_envs.scratch_itch.env import ScratchItch, itch_frame
from dynamite_jax.beliefs import elbo
from dynamite_jax.data.types import Array, Trajectories
from dynamite_jax.datasets import recording


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
    return _of(env, recording.of_random_actions(env, episodes, key, deviation))


def of_run(run: dj.Run, episodes: int, key: Array) -> Episodes:
    """Play the policy of a run's first seed, as in training."""
    policy, env = run.policy(), run.program.env
    return _of(env.unwrapped, recording.of_agent(policy.agent, env, policy.params, episodes, key))


def _of(env: DLCMDP, recorded: recording.Episodes) -> Episodes:
    """What beliefs are compared on, of episodes that are recorded."""
    physics, context = jax.tree.map(lambda x: x[:-1], (recorded.physics, recorded.context))
    known = jax.vmap(jax.vmap(partial(facts, env)))(physics, context)
    return Episodes(recorded.trajectories(), physics, context, known)
