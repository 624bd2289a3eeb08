"""The point robot."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynamite_envs import exact, registry
from dynamite_envs.dlcmdp import Array
from dynamite_envs.point_robot import PointRobot
from dynamite_envs.point_robot_exact import PointRobotSolution


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
    assert exact.find(env).references() == {}


def test_going_straight_to_a_goal_and_staying_there_earns_what_the_way_costs():
    env = make(p=0.0, horizon=20)
    state = env.reset(jax.random.key(0)).replace(context=jnp.array(0))
    total = 0.0
    for t in range(12):
        state = env.step(state, jnp.array([1.0 if t < 10 else 0.0, 0.0]))
        total += float(state.reward)
    assert total == pytest.approx(-(0.9 + 0.8 + 0.7 + 0.6 + 0.5 + 0.4 + 0.3 + 0.2 + 0.1), abs=1e-5)


# -- filter ------------------------------------------------------------------------------------------------------


@jax.jit
def filtered(env: PointRobot, actions: Array, seed: int = 0) -> tuple[Array, Array, Array]:
    """Positions, rewards and posteriors after every step, [H, N, ...]."""
    solution = PointRobotSolution(env)

    def step(carry, action):
        state, posterior = carry
        state = jax.vmap(env.step)(state, action)
        posterior = jax.vmap(solution.filter_step)(posterior, state.physics, state.reward)
        return (state, posterior), (state.physics, state.reward, posterior)

    start = jax.vmap(env.reset)(jax.random.split(jax.random.key(seed), actions.shape[1]))
    return jax.lax.scan(step, (start, jnp.tile(solution.init_posterior(), (actions.shape[1], 1))), actions)[1]


def by_all_sequences(env: PointRobot, position: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """Posteriors after every step by the sum over all sequences of contexts, in float64, [H, n]."""
    n, steps = len(env.initial), len(reward)
    goals = np.exp(1j * np.linspace(0, np.pi, n))
    distance = np.abs((position[:, 0] + 1j * position[:, 1]).astype(complex)[:, None] - goals)  # [H, n]
    likely = np.abs(distance + reward[:, None]) < 3e-6
    kernel, p = np.asarray(env.kernel, float), float(env.p)
    chain = (1 - p) * np.eye(n) + p * kernel
    posterior = np.zeros((steps, n))
    for t in range(steps):
        for contexts in itertools.product(range(n), repeat=t + 2):
            weight = float(env.initial[contexts[0]])
            for s in range(t + 1):
                weight *= likely[s, contexts[s]] * chain[contexts[s], contexts[s + 1]]
            posterior[t, contexts[-1]] += weight
    return posterior / posterior.sum(1, keepdims=True)


SETTINGS = {
    "ordered": {"goals": 4, "p": 0.3},
    "two goals": {"goals": 2, "p": 0.4},
    "anywhere": {"goals": 4, "p": 0.5, "iid": True},
    "never": {"goals": 4, "p": 0.0},
    "always on": {"goals": 3, "p": 1.0, "advance": 1.0},
    "asymmetric": {"goals": 3, "p": 0.4, "initial": [0.7, 0.3, 0.0], "kernel": np.eye(3)[[1, 0, 2]].tolist()},
}
WALKS: dict[str, Any] = {
    "anywhere": lambda rng, shape: rng.uniform(-1, 1, shape),
    "stays": lambda rng, shape: np.zeros(shape),  # where all goals are equally far: no reward is evidence
    "along the axis": lambda rng, shape: rng.uniform(0, 1, shape) * [0, 1],  # between goals that lie in mirror image
}


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_filter_equals_the_sum_over_all_sequences_of_goals(setting, walk):
    steps, episodes = 4, 12
    env = make(horizon=steps, **SETTINGS[setting])
    actions = WALKS[walk](np.random.default_rng(0), (steps, episodes, 2))
    position, reward, posterior = map(np.asarray, filtered(env, jnp.asarray(actions, jnp.float32)))
    for n in range(episodes):
        expected = by_all_sequences(env, position[:, n], reward[:, n])
        np.testing.assert_allclose(posterior[:, n], expected, atol=2e-6)


def test_the_filter_never_loses_the_goal_however_far_the_robot_goes():
    """Wherever a single reward tells the goal, what it leaves is that goal carried on by one step."""
    env = make()
    actions = jnp.tile(jnp.linspace(-1, 1, 64)[:, None], (env.horizon, 1, 1)) * jnp.ones(2).at[1].set(-0.6)
    solution = PointRobotSolution(env)

    def step(state, action):
        after = jax.vmap(env.step)(state, action)
        return after, (state.context, after.physics, after.reward)

    start = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 64))
    context, position, reward = jax.jit(lambda start: jax.lax.scan(step, start, actions)[1])(start)
    certain, uniform = jax.nn.one_hot(context, 8), jnp.full((8,), 1 / 8)
    after = jax.jit(jax.vmap(jax.vmap(lambda s, r: solution.filter_step(uniform, s, r))))(position, reward)
    truth = 0.96 * certain + 0.04 * certain @ np.asarray(env.kernel)
    away = np.asarray(jnp.linalg.norm(position, axis=-1)) > 0.05
    np.testing.assert_allclose(np.asarray(after)[away], np.asarray(truth)[away], atol=1e-5)
    assert np.abs(np.asarray(position)).max() > 9


def test_a_prior_that_excludes_a_goal_is_not_overruled_by_a_tie():
    """At the origin every goal explains the reward; those that were impossible stay so."""
    env = make(p=0.0)
    prior = jnp.array([0.0, 0.0, 0.25, 0.0, 0.75, 0.0, 0.0, 0.0])
    posterior = PointRobotSolution(env).filter_step(prior, jnp.zeros(2), jnp.float32(-1.0))
    np.testing.assert_allclose(posterior, prior, atol=1e-7)
