"""Episodes with what is hidden in them, as they are played."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dynamite_envs.dlcmdp import DLCMDP, State
from dynamite_envs.spaces import Discrete
from dynamite_jax.agents.agent import Agent
from dynamite_jax.data.rollout import play
from dynamite_jax.data.types import AgentParams, Array, Trajectories


class Episodes(struct.PyTreeNode):
    """N episodes, time-major. The last three are hidden from whoever acts.

    Attributes:
        observation: s_0 .. s_H without any context, [H + 1, N, O].
        action: a_0 .. a_{H-1} as the environment executed them, [H, N, ...].
        reward: r_0 .. r_{H-1} in their unit, [H, N].
        terminated: whether the task had ended after the step, [H, N].
        session: index of the session under which each step is made, and of the one that follows, [H + 1, N].
        context: likewise, leaves [H + 1, N, ...].
        physics: physical states s_0 .. s_H, leaves [H + 1, N, ...]; None where they are not kept.
    """

    observation: Array
    action: Array
    reward: Array
    terminated: Array
    session: Array
    context: Any
    physics: Any

    @property
    def valid(self) -> Array:
        """Whether the episode had not ended before each step, [H, N]."""
        return jnp.concatenate([jnp.ones_like(self.terminated[:1]), ~self.terminated[:-1]])

    def trajectories(self, label: Any = None) -> Trajectories:
        """What beliefs learn from, in units, [H(+1), N, ...].

        Args:
            label: `Belief.label` of the contexts, [H, N, ...]; without it they are left out.
        """
        return Trajectories(
            observation=self.observation,
            action=self.action,
            reward=self.reward,
            session=self.session[:-1],
            valid=self.valid,
            context=label,
        )


def of_random_actions(env: DLCMDP, episodes: int, key: Array, deviation: float | None = None) -> Episodes:
    """Play actions that depend on nothing.

    Args:
        env: the environment.
        episodes: N.
        key: of contexts, start states and actions.
        deviation: of normal actions, where they are continuous; by default all of the box alike.
    """
    space = env.action_space
    reset_key, key = jax.random.split(key)

    def step(before: State, key: Array) -> tuple[State, tuple[State, Array]]:
        if isinstance(space, Discrete):
            action = jax.random.randint(key, (episodes,), 0, space.size)
        elif deviation is None:
            action = jax.random.uniform(key, (episodes, space.size), minval=-1.0)
        else:
            action = space.clip(deviation * jax.random.normal(key, (episodes, space.size)))
        return jax.vmap(env.step)(before, action), (before, action)

    start = jax.vmap(env.reset)(jax.random.split(reset_key, episodes))
    end, (states, action) = jax.lax.scan(step, start, jax.random.split(key, env.horizon))
    return _of(env, jax.tree.map(lambda x, last: jnp.concatenate([x, last[None]]), states, end), action)


def of_agent(
    agent: Agent, env: DLCMDP, params: AgentParams, episodes: int, key: Array, deterministic: bool = False
) -> Episodes:
    """Play an agent as it acts in training.

    Args:
        agent: who acts.
        env: the environment as it observes it.
        params: of the agent.
        episodes: N.
        key: of contexts, start states and actions.
        deterministic: take the mode of its policy instead of a sample.
    """
    reset_key, key = jax.random.split(key)
    start = jax.vmap(env.reset)(jax.random.split(reset_key, episodes))
    rollout, states, _ = play(agent, env, params, environment=start, key=key, deterministic=deterministic)
    return _of(env.unwrapped, states, rollout.action)


def _of(env: DLCMDP, states: State, action: Array) -> Episodes:
    """Episodes from the states s_0 .. s_H, [H + 1, N, ...], and the actions between them."""
    return Episodes(
        observation=jax.vmap(jax.vmap(env.observe))(states.physics),
        action=env.action_space.clip(action),
        reward=states.reward[1:],
        terminated=states.terminated[1:],
        session=states.session,
        context=states.context,
        physics=states.physics,
    )


def can_relabel(env: DLCMDP) -> bool:
    """Whether recorded steps tell what they would have paid: contexts change nothing else, nor do their switches."""
    return env.relabels and not env.reset_on_switch


def relabelled(env: DLCMDP, episodes: Episodes, key: Array, share: Array | float) -> Episodes:
    """Some of the episodes as if other contexts had held in them, so that nothing of how they were played tells these.

    Sessions and contexts are drawn anew from the session process, and steps pay what they would have paid under them.

    Args:
        env: an environment that `can_relabel`.
        episodes: with their physical states.
        key: which episodes, and their contexts.
        share: probability of each episode.
    """
    count = episodes.reward.shape[1]
    choose_key, key = jax.random.split(key)

    def contexts(key: Array) -> tuple[Any, Array]:
        """Contexts and sessions of one episode, [H + 1, ...], in the order of `DLCMDP.reset` and `step`."""
        first_key, key = jax.random.split(key)
        first = (env.init_context(first_key), jnp.zeros((), jnp.int32))

        def step(before: tuple[Any, Array], key: Array) -> tuple[tuple[Any, Array], tuple[Any, Array]]:
            switch_key, context_key = jax.random.split(key)
            context, session = before
            switched = jax.random.bernoulli(switch_key, env.p)
            following = env.next_context(context_key, context)
            context = jax.tree.map(partial(jnp.where, switched), following, context)
            return (context, session + switched), (context, session + switched)

        rest = jax.lax.scan(step, first, jax.random.split(key, env.horizon))[1]
        return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), first, rest)

    context, session = jax.tree.map(
        lambda x: jnp.moveaxis(x, 0, 1), jax.vmap(contexts)(jax.random.split(key, count))
    )  # [H + 1, N, ...]
    before, after = (
        jax.tree.map(lambda x, part=part: x[part], episodes.physics) for part in (slice(-1), slice(1, None))
    )
    during = jax.tree.map(lambda x: x[:-1], context)
    reward = jax.vmap(jax.vmap(env.reward))(before, after, episodes.action, during)
    changed = jax.random.uniform(choose_key, (count,)) < share

    def where(new: Array, old: Array) -> Array:
        return jnp.where(changed.reshape(1, -1, *[1] * (new.ndim - 2)), new, old)

    return episodes.replace(
        reward=jnp.where(episodes.valid, where(reward, episodes.reward), 0.0),
        session=where(session, episodes.session),
        context=jax.tree.map(where, context, episodes.context),
    )
