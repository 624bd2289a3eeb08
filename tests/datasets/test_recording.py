"""Recorded episodes: what they hold, and what they would have paid under other contexts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import build, tiny_config
from dynamite_envs import registry
from dynamite_jax.datasets import recording
from recorded import played

RELABELS = [name for name in registry.MAKERS if registry.make(name).relabels]


def test_environments_relabel_where_contexts_change_rewards_alone():
    assert {"gridworld", "gridworld_ring8", "point_robot", "reacher", "halfcheetah_vel"} <= set(RELABELS)
    assert not {"halfcheetah_wind", "halfcheetah_vel_wind", "scratch_itch"} & set(RELABELS)


def test_where_a_switch_moves_the_state_steps_do_not_tell_other_rewards():
    assert recording.can_relabel(registry.make("gridworld"))
    assert not recording.can_relabel(registry.make("gridworld", reset_on_switch=True))
    assert not recording.can_relabel(registry.make("halfcheetah_wind"))


@pytest.mark.parametrize("name", RELABELS)
def test_rewards_under_the_recorded_contexts_are_the_recorded_ones(name):
    env = registry.make(name, horizon=12)
    episodes = played(env, 3)
    before, after = (
        jax.tree.map(lambda x, part=part: x[part], episodes.physics) for part in (slice(-1), slice(1, None))
    )
    context = jax.tree.map(lambda x: x[:-1], episodes.context)
    told = jax.jit(jax.vmap(jax.vmap(env.reward)))(before, after, episodes.action, context)
    np.testing.assert_allclose(told, episodes.reward, rtol=1e-5, atol=1e-6)
    assert episodes.session.shape == (13, 3)


@pytest.mark.parametrize("name", ["gridworld", "point_robot", "halfcheetah_vel"])
def test_relabelled_rewards_are_those_of_the_environment_under_the_new_contexts(name):
    env = registry.make(name, horizon=12, p=0.3)
    episodes = played(env, 5)
    changed = jax.jit(recording.relabelled)(env, episodes, jax.random.key(1), 1.0)
    before, context = (jax.tree.map(lambda x: x[:-1], tree) for tree in (episodes.physics, changed.context))

    def pays(physics, context, action):
        return env.dynamics(physics, context, action, jax.random.key(0))[1]

    expected = jax.jit(jax.vmap(jax.vmap(pays)))(before, context, episodes.action)
    np.testing.assert_allclose(changed.reward, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(changed.reward, episodes.reward)
    np.testing.assert_array_equal(changed.observation, episodes.observation)
    np.testing.assert_array_equal(changed.action, episodes.action)


def test_new_contexts_come_from_the_session_process():
    env = registry.make("gridworld", p=0.25, swap=1.0)
    episodes = played(env, 200)
    changed = jax.jit(recording.relabelled)(env, episodes, jax.random.key(2), 1.0)
    session, context = np.asarray(changed.session), np.asarray(changed.context)
    switched = session[1:] != session[:-1]
    assert (session[0] == 0).all() and (np.diff(session, axis=0) >= 0).all()
    assert switched.mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_array_equal(context[1:] != context[:-1], switched)  # a swap of 1 always changes the goal
    assert context[0].mean() == pytest.approx(0.5, abs=0.12)
    # They are no longer those under which it was played.
    assert (context == np.asarray(episodes.context)).mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_share_says_how_many_episodes_are_relabelled(share):
    env = registry.make("point_robot", horizon=8)
    episodes = played(env, 200)
    changed = jax.jit(recording.relabelled)(env, episodes, jax.random.key(3), share)
    differs = (changed.reward != episodes.reward).any(0)
    assert float(differs.mean()) == pytest.approx(share * 7 / 8 if share else 0.0, abs=0.12)
    np.testing.assert_array_equal(changed.session[:, ~differs], episodes.session[:, ~differs])


def test_after_an_end_nothing_is_paid_or_valid():
    env = registry.make("probe_termination")
    episodes = played(env, 50)
    terminated, valid = np.asarray(episodes.terminated), np.asarray(episodes.valid)
    assert terminated.any() and valid[0].all()
    np.testing.assert_array_equal(valid[1:], ~terminated[:-1])
    assert not np.asarray(episodes.reward)[~valid].any()


def test_recorded_actions_are_those_that_were_executed():
    env = registry.make("point_robot", horizon=8)
    wide = recording.of_random_actions(env, 20, jax.random.key(0), deviation=5.0)
    assert float(jnp.abs(wide.action).max()) == 1.0
    moved = wide.observation[1:] - wide.observation[:-1]
    np.testing.assert_allclose(moved, 0.1 * wide.action, atol=1e-6)
    uniform = played(env, 200)
    assert float(uniform.action.std()) == pytest.approx(1 / np.sqrt(3), rel=0.05)


def test_actions_of_an_agent_are_recorded_as_they_were_executed():
    """It draws them from a normal distribution, whose tails lie outside of the box."""
    config = tiny_config("point_robot", "markov", env_options={"horizon": 12})
    program, states = build(config)
    params = jax.tree.map(lambda x: x[0], program.algorithm.agent_params(states))
    episodes = recording.of_agent(program.agent, program.env, params, 20, jax.random.key(0))
    assert float(jnp.abs(episodes.action).max()) == 1.0
    np.testing.assert_allclose(episodes.observation[1:] - episodes.observation[:-1], 0.1 * episodes.action, atol=1e-6)
