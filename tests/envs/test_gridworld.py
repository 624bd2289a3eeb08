"""The gridworld and its exact filter."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dynamite_envs.dlcmdp import Array
from dynamite_envs.gridworld.env import Cells, Gridworld
from dynamite_envs.gridworld.exact import GridworldSolution
from gridworlds import ASYMMETRIC, DOWN, LEFT, NOOP, RIGHT, SETTINGS, UP, at, make, reward_of, transition

# -- moves and rewards -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "change"), [(NOOP, (0, 0)), (UP, (0, 1)), (RIGHT, (1, 0)), (DOWN, (0, -1)), (LEFT, (-1, 0))]
)
def test_an_action_moves_the_agent_by_one_cell(action, change):
    moved, _, terminated = make().dynamics(at((2, 3)), jnp.array(0), jnp.array(action), jax.random.key(0))
    assert np.array_equal(moved.agent, np.add((2, 3), change))
    assert np.array_equal(moved.goals, [[0, 0], [4, 4]])
    assert not terminated


@pytest.mark.parametrize(
    ("corner", "actions"),
    [((0, 0), (DOWN, LEFT)), ((4, 4), (UP, RIGHT)), ((0, 4), (UP, LEFT)), ((4, 0), (DOWN, RIGHT))],
)
def test_moves_are_clipped_at_the_edges(corner, actions):
    for action in actions:
        moved, _, _ = make().dynamics(at(corner), jnp.array(0), jnp.array(action), jax.random.key(0))
        assert np.array_equal(moved.agent, corner)


@pytest.mark.parametrize("context", [0, 1])
def test_the_default_rewards_are_one_zero_and_minus_a_tenth(context):
    env = make()
    for cell, expected in {(0, 0): 1.0 - context, (4, 4): float(context), (1, 2): -0.1}.items():
        _, reward, _ = env.dynamics(at(cell), jnp.array(context), jnp.array(NOOP), jax.random.key(0))
        assert reward == np.float32(expected)


def test_reward_is_paid_for_the_cell_reached_not_the_cell_left():
    _, arriving, _ = make().dynamics(at((0, 1)), jnp.array(0), jnp.array(DOWN), jax.random.key(0))
    _, leaving, _ = make().dynamics(at((0, 0)), jnp.array(0), jnp.array(UP), jax.random.key(0))
    assert (arriving, leaving) == (1.0, np.float32(-0.1))


def test_rewards_are_options():
    env = make(active_reward=3.0, inactive_reward=-2.0, step_reward=0.5)
    for cell, expected in {(0, 0): 3.0, (4, 4): -2.0, (2, 2): 0.5}.items():
        assert env.dynamics(at(cell), jnp.array(0), jnp.array(NOOP), jax.random.key(0))[1] == expected


def test_observation_is_agent_and_goals_scaled_to_one():
    expected = [0.25, 0.5, 0.75, 1.0, 0.0, 0.25]
    np.testing.assert_allclose(make().observe(at((1, 2), ((3, 4), (0, 1)))), expected)
    np.testing.assert_allclose(make(cells=3).observe(at((1, 2), ((2, 0), (0, 1)))), [0.5, 1, 1, 0, 0, 0.5])
    assert make().observation_size == 6


def test_the_defaults_are_those_of_the_spec():
    env = make()
    assert (env.horizon, env.cells, float(env.p)) == (60, 5, np.float32(0.07))
    np.testing.assert_allclose(env.kernel, [[0.2, 0.8], [0.8, 0.2]], atol=1e-7)
    np.testing.assert_allclose(env.initial, [0.5, 0.5])
    assert env.action_space.n == 5
    assert not env.reset_on_switch


def test_swap_is_the_probability_that_a_switch_changes_the_goal():
    np.testing.assert_allclose(make(swap=0.3).kernel, [[0.7, 0.3], [0.3, 0.7]], atol=1e-7)


@pytest.mark.parametrize("cells", [3, 5])
def test_goals_are_distinct_and_all_cells_are_drawn_uniformly(cells):
    env, n = make(cells=cells), cells**2
    physics = jax.jit(jax.vmap(env.init_physics))(jax.random.split(jax.random.key(0), 60_000))

    def index(xy):
        return np.asarray(xy)[..., 0] * cells + np.asarray(xy)[..., 1]

    agent, first, second = index(physics.agent), index(physics.goals)[:, 0], index(physics.goals)[:, 1]
    assert min(agent.min(), first.min(), second.min()) == 0 and max(agent.max(), first.max(), second.max()) == n - 1
    assert np.all(first != second)
    pairs = np.bincount(first * n + second, minlength=n * n).reshape(n, n)
    assert stats.chisquare(pairs[~np.eye(n, dtype=bool)]).pvalue > 1e-3
    assert stats.chisquare(np.bincount(agent, minlength=n)).pvalue > 1e-3
    for goal in (first, second):  # the start knows nothing of the goals
        assert stats.chisquare(np.bincount(agent * n + goal, minlength=n * n)).pvalue > 1e-3


# -- filter ------------------------------------------------------------------------------------------------------


@jax.jit
def filtered(env: Gridworld, actions: Array) -> tuple[Cells, Array, Array]:
    """Physics, rewards and posteriors after every step, [H, N]."""
    episodes, solution = actions.shape[1], GridworldSolution(env)

    def step(carry, action):
        state, posterior = carry
        state = jax.vmap(env.step)(state, action)
        posterior = jax.vmap(solution.filter_step)(posterior, state.physics, state.reward)
        return (state, posterior), (state.physics, state.reward, posterior)

    start = jax.vmap(env.reset)(jax.random.split(jax.random.key(2), episodes))
    return jax.lax.scan(step, (start, jnp.tile(solution.init_posterior(), (episodes, 1))), actions)[1]


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_filter_equals_the_sum_over_all_context_sequences(setting):
    steps, episodes = 6, 8
    env = make(cells=2, horizon=steps, **SETTINGS[setting])
    physics, rewards, posteriors = filtered(env, jax.random.randint(jax.random.key(1), (steps, episodes), 0, 5))
    chain, initial = transition(env), np.asarray(env.initial, float)
    agents, goals, rewards = (np.asarray(x) for x in (physics.agent, physics.goals, rewards))
    hits = 0
    for episode in range(episodes):
        on_goal = (goals[:, episode] == agents[:, episode, None]).all(-1)
        on = [int(row.argmax()) if row.any() else None for row in on_goal]
        hits += int(on_goal.sum())
        weights = np.zeros((steps, 2))  # of the context after each step, given the rewards up to it
        for contexts in itertools.product((0, 1), repeat=steps + 1):
            weight = initial[contexts[0]]
            for t in range(steps):
                likely = abs(reward_of(env, on[t], contexts[t]) - rewards[t, episode]) < 1e-6
                weight *= likely * chain[contexts[t], contexts[t + 1]]
                # the contexts that follow are summed out: each tail counts once
                weights[t, contexts[t + 1]] += weight / 2 ** (steps - 1 - t)
        np.testing.assert_allclose(posteriors[:, episode], weights / weights.sum(1, keepdims=True), atol=2e-6)
    assert hits


def test_the_filter_starts_with_the_first_distribution():
    np.testing.assert_allclose(GridworldSolution(make(**ASYMMETRIC)).init_posterior(), [0.8, 0.2])


def test_equal_rewards_on_the_goals_tell_nothing():
    env = make(p=0.0, inactive_reward=1.0)
    posterior = GridworldSolution(env).filter_step(jnp.array([0.3, 0.7]), at((0, 0)), jnp.float32(1.0))
    np.testing.assert_allclose(posterior, [0.3, 0.7], atol=1e-6)


@pytest.mark.parametrize("rewards", [(1.0, 0.0), (1.0, -0.1), (2.0, 0.5), (-1.0, 1.0)])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_decoded_posterior_inverts_a_perfect_model_of_the_reward(weight, rewards):
    active, inactive = rewards
    env = make(active_reward=active, inactive_reward=inactive)
    goals = np.array([[1, 0], [2, 4]])

    def decode(s, a, following):
        np.testing.assert_allclose(s, following)  # staying
        assert np.array_equal(a, [NOOP, NOOP])
        np.testing.assert_allclose(s, [[0.25, 0, 0.25, 0, 0.5, 1], [0.5, 1, 0.25, 0, 0.5, 1]])
        pays = jnp.array([weight, 1 - weight])
        return pays * active + (1 - pays) * inactive

    posterior = GridworldSolution(env).decoded_posterior(at((3, 3), goals), decode)
    np.testing.assert_allclose(posterior, [weight, 1 - weight], atol=1e-6)


def test_the_decoded_posterior_of_an_imperfect_model_is_a_distribution():
    env = make()
    for decoded, expected in [((5.0, -5.0), 1.0), ((0.8, 0.4), 0.7), ((1.0, 1.0), 0.5), ((-1.0, 0.5), 0.25)]:
        posterior = GridworldSolution(env).decoded_posterior(at((3, 3)), lambda *_, decoded=decoded: jnp.array(decoded))
        np.testing.assert_allclose(posterior, [expected, 1 - expected], atol=1e-6)


def test_the_decoded_posterior_is_even_where_both_goals_pay_the_same():
    env = make(active_reward=0.5, inactive_reward=0.5)
    np.testing.assert_array_equal(
        GridworldSolution(env).decoded_posterior(at((3, 3)), lambda *_: jnp.array([0.5, 0.7])), [0.5, 0.5]
    )
