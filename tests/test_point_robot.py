"""The point robot."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynamite_envs import registry
from dynamite_envs.point_robot import PointRobot


def make(**options: Any) -> PointRobot:
    env = registry.make("point_robot", **options)
    assert isinstance(env, PointRobot)
    return env


def test_it_moves_by_a_tenth_of_the_action():
    state = make().reset(jax.random.key(0))
    np.testing.assert_allclose(state.obs, [0, 0])
    state = make().step(state, jnp.array([1.0, -0.5]))
    np.testing.assert_allclose(state.obs, [0.1, -0.05], rtol=1e-6)
    state = make().step(state, jnp.array([0.2, 0.5]))
    np.testing.assert_allclose(state.obs, [0.12, 0.0], atol=1e-7)
    np.testing.assert_allclose(state.physics, state.obs)


def test_actions_beyond_the_unit_box_are_clipped():
    state = make().step(make().reset(jax.random.key(0)), jnp.array([7.0, -1.5]))
    np.testing.assert_allclose(state.obs, [0.1, -0.1], rtol=1e-6)


def test_every_episode_starts_at_the_origin():
    states = jax.vmap(make().reset)(jax.random.split(jax.random.key(0), 16))
    assert not np.asarray(states.obs).any()


@pytest.mark.parametrize("context", range(8))
def test_reward_is_minus_the_distance_after_the_move(context):
    state = make().reset(jax.random.key(0)).replace(context=jnp.array(context))
    reward = make().step(state, jnp.array([1.0, 0.5])).reward
    goal = np.exp(1j * np.pi * context / 7)
    assert float(reward) == pytest.approx(-abs(0.1 + 0.05j - goal), abs=1e-6)


def test_reward_is_zero_on_the_goal():
    before, right = jnp.array([0.9, 0.0]), jnp.array([1.0, 0.0])
    _, reward, terminated = make().dynamics(before, jnp.array(0), right, jax.random.key(0))
    assert float(reward) == pytest.approx(0.0, abs=1e-6)
    assert not terminated


@pytest.mark.parametrize("goals", [2, 3, 8])
def test_goals_are_spread_evenly_over_the_unit_semicircle(goals):
    env = make(goals=goals)
    places = np.stack([np.asarray(env.goal(jnp.array(m))) for m in range(goals)])
    angles = np.linspace(0, np.pi, goals)
    np.testing.assert_allclose(places, np.stack([np.cos(angles), np.sin(angles)], -1), atol=1e-6)
    np.testing.assert_allclose(env.context_features(jnp.array(1)), places[1])


def test_a_switch_goes_to_the_next_goal_with_probability_0_8_else_anywhere():
    kernel = np.full((8, 8), 0.2 / 8)
    for m in range(8):
        kernel[m, (m + 1) % 8] += 0.8
    np.testing.assert_allclose(make().kernel, kernel, atol=1e-7)


def test_advance_is_an_option():
    np.testing.assert_allclose(make(goals=3, advance=0.4).kernel[0], [0.2, 0.6, 0.2], atol=1e-7)
    np.testing.assert_allclose(make(goals=3, advance=1.0).kernel[2], [1, 0, 0], atol=1e-7)


def test_the_iid_option_forgets_the_last_goal():
    np.testing.assert_allclose(make(iid=True).kernel, np.full((8, 8), 1 / 8))
    np.testing.assert_allclose(make(iid=True, goals=5).kernel, np.full((5, 5), 0.2))


def test_the_defaults_are_those_of_the_spec():
    env = make()
    assert (env.horizon, float(env.p), env.action_space.size, env.observation_size) == (100, np.float32(0.04), 2, 2)
    np.testing.assert_allclose(env.initial, np.full(8, 1 / 8))
    assert not env.reset_on_switch
    assert not env.decode_state
    assert env.references() == {}


def test_going_straight_to_a_goal_and_staying_there_earns_what_the_way_costs():
    env = make(p=0.0, horizon=20)
    state = env.reset(jax.random.key(0)).replace(context=jnp.array(0))
    total = 0.0
    for t in range(12):
        state = env.step(state, jnp.array([1.0 if t < 10 else 0.0, 0.0]))
        total += float(state.reward)
    assert total == pytest.approx(-(0.9 + 0.8 + 0.7 + 0.6 + 0.5 + 0.4 + 0.3 + 0.2 + 0.1), abs=1e-5)
