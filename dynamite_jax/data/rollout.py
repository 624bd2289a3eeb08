"""One episode in many environments: one scan that carries the environments and the agent."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dynamite_envs.dlcmdp import DLCMDP, State
from dynamite_jax.agents.agent import Agent, AgentState
from dynamite_jax.data import sharing
from dynamite_jax.data.types import AgentParams, Array, Rollout


def play(
    agent: Agent,
    env: DLCMDP,
    params: AgentParams,
    environment: State,
    key: Array,
    deterministic: bool = False,
) -> tuple[Rollout, State, Any]:
    """Play one episode. The agent acts by its own predicted boundaries; labels are only recorded.

    Args:
        agent: who acts.
        env: the environment, one of E alike.
        params: of the agent.
        environment: E environments just reset.
        key: stream of the actions.
        deterministic: take the mode of the policy instead of a sample.

    Returns:
        The rollout, the environments at s_0 .. s_H, and `Belief.summary` there, time-major.
    """
    step_env = sharing.over_environments(lambda env, state, action: env.step(state, action), env)

    def step(carry: tuple[State, AgentState], key: Array) -> tuple[tuple[State, AgentState], Any]:
        before, state = carry
        action_key = None if deterministic else key
        action, log_prob, state, insight = agent.act(params, state, before.obs, before.reward, key=action_key)
        after = step_env(before, action)
        return (after, state), (before, insight, action, log_prob, after.reward, after.terminated)

    keys = jax.random.split(key, env.horizon)
    start = (environment, agent.init(environment.obs.shape[:1]))
    (end, state), (environments, insights, action, log_prob, reward, terminated) = jax.lax.scan(step, start, keys)
    _, last = agent.observe(params, state, end.obs, end.reward)
    environments, insights = jax.tree.map(
        lambda steps, last: jnp.concatenate([steps, last[None]]), (environments, insights), (end, last)
    )
    labels = jax.vmap(jax.vmap(partial(agent.belief.label, env)))(environments.context)
    rollout = Rollout(
        observation=environments.obs,
        action=action,
        reward=reward,
        terminated=terminated,
        session=environments.session[:-1],
        features=insights.features,
        log_prob=log_prob,
        value=insights.value,
        boundary=insights.boundary[:-1],
        valid=~environments.terminated[:-1],
        context=jax.tree.map(lambda x: x[:-1], labels),
    )
    return rollout.cleared(), environments, insights.summary
