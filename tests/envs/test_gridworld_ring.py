"""The ring gridworlds, their exact filter, and the exact return of the oracle."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dynamite_envs import exact, registry
from dynamite_envs.dlcmdp import Array, State
from dynamite_envs.errors import UserError
from dynamite_envs.gridworld import ring
from dynamite_envs.gridworld.grid import Cells
from dynamite_envs.gridworld.ring import Ring
from dynamite_envs.gridworld.ring_exact import RingSolution

NOOP, UP, RIGHT, DOWN, LEFT = range(5)
GOALS = {
    (4, 5): [(0, 0), (0, 4), (4, 4), (4, 0)],
    (8, 5): [(0, 0), (0, 2), (0, 4), (2, 4), (4, 4), (4, 2), (4, 0), (2, 0)],
    (4, 2): [(0, 0), (0, 1), (1, 1), (1, 0)],
    (4, 3): [(0, 0), (0, 2), (2, 2), (2, 0)],
    (8, 3): [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)],
}
CHAIN = np.random.default_rng(5).dirichlet(np.ones(4), size=5).astype(np.float32)
SETTINGS: dict[str, tuple[int, dict[str, Any]]] = {
    "four": (4, {"cells": 3}),
    "eight": (8, {"cells": 3}),
    "often": (8, {"cells": 3, "p": 0.4, "forward": 0.3}),
    "never": (8, {"cells": 3, "p": 0.0}),
    "round and round": (4, {"cells": 2, "p": 1.0, "forward": 1.0}),
    "any kernel": (4, {"cells": 3, "p": 0.5, "initial": CHAIN[0].tolist(), "kernel": CHAIN[1:].tolist()}),
    "misses cost": (4, {"cells": 3, "p": 0.2, "inactive_reward": -0.1}),
    "inverted": (4, {"cells": 3, "p": 0.2, "active_reward": -0.5, "inactive_reward": 0.5, "step_reward": -0.5}),
    "untold": (4, {"cells": 3, "p": 0.3, "inactive_reward": 1.0, "initial": [0.4, 0.3, 0.2, 0.1]}),
}


def make(goals: int = 4, **options: Any) -> Ring:
    env = registry.make(f"gridworld_ring{goals}", **options)
    assert isinstance(env, Ring)
    return env


def at(env: Ring, agent: Any) -> Cells:
    return Cells(agent=jnp.array(agent, jnp.int32), goals=env.goals)


def reward_of(env: Ring, cell: tuple[int, int], context: int) -> float:
    """Reward of a step that ends on a cell, by the list of goals above."""
    goals = GOALS[len(env.initial), env.cells]
    if cell not in goals:
        return float(env.step_reward)
    return float(env.active_reward if goals.index(cell) == context else env.inactive_reward)


def transition(env: Ring) -> np.ndarray:
    """Contexts of one step to the next, switch or not."""
    return (1 - float(env.p)) * np.eye(len(env.initial)) + float(env.p) * np.asarray(env.kernel, float)


@functools.partial(jax.jit, static_argnames="episodes")
def played(env: Ring, episodes: int) -> tuple[State, Array]:
    """States before and after every step of uniform actions, [H + 1, N], and the filter's posteriors, [H + 1, N, n]."""
    solution = RingSolution(env)
    actions = jax.random.randint(jax.random.key(1), (env.horizon, episodes), 0, 5)

    def step(carry, action):
        state, posterior = carry
        state = jax.vmap(env.step)(state, action)
        posterior = jax.vmap(solution.filter_step)(posterior, state.physics, state.reward)
        return (state, posterior), (state, posterior)

    start = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), episodes))
    start = start, jnp.tile(solution.init_posterior(), (episodes, 1))
    after = jax.lax.scan(step, start, actions)[1]
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, after)


# -- goals, moves and rewards ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("goals", "cells"), GOALS)
def test_goals_lie_in_ring_order_on_the_corners_and_in_the_middles_of_the_edges(goals, cells):
    env = make(goals, cells=cells)
    start = jax.vmap(env.init_physics)(jax.random.split(jax.random.key(0), 3))
    assert np.array_equal(env.goals, GOALS[goals, cells])
    assert np.array_equal(start.goals, [GOALS[goals, cells]] * 3)


@pytest.mark.parametrize("goals", [4, 8])
def test_only_the_goal_of_the_context_pays(goals):
    env, cells = make(goals), [(x, y) for x in range(5) for y in range(5)]
    for context in range(goals):
        for cell in cells:
            expected = -0.1 if cell not in GOALS[goals, 5] else float(GOALS[goals, 5].index(cell) == context)
            _, reward, terminated = env.dynamics(at(env, cell), jnp.array(context), jnp.array(NOOP), jax.random.key(0))
            assert reward == np.float32(expected) and not terminated


def test_rewards_are_options():
    env = make(8, active_reward=3.0, inactive_reward=-2.0, step_reward=0.5)
    for cell, expected in {(2, 0): 3.0, (0, 2): -2.0, (2, 2): 0.5}.items():
        assert env.dynamics(at(env, cell), jnp.array(7), jnp.array(NOOP), jax.random.key(0))[1] == expected


@pytest.mark.parametrize(
    ("action", "cell"), [(NOOP, (0, 3)), (UP, (0, 4)), (RIGHT, (1, 3)), (DOWN, (0, 2)), (LEFT, (0, 3))]
)
def test_moves_are_those_of_the_gridworld_and_paid_by_the_cell_reached(action, cell):
    env = make()
    moved, reward, _ = env.dynamics(at(env, (0, 3)), jnp.array(1), jnp.array(action), jax.random.key(0))
    assert np.array_equal(moved.agent, cell)
    assert np.array_equal(moved.goals, GOALS[4, 5])
    assert reward == np.float32(1.0 if action == UP else -0.1)


def test_the_cell_of_the_agent_is_all_that_is_observed():
    assert np.array_equal(make().observe(at(make(), (1, 4))), [0.25, 1.0])
    assert np.array_equal(make(8, cells=3).observe(at(make(8, cells=3), (1, 2))), [0.5, 1.0])
    assert make().observation_size == 2


@pytest.mark.parametrize("goals", [4, 8])
def test_the_defaults_are_those_of_the_spec(goals):
    env = make(goals)
    assert (env.horizon, env.cells, env.contexts, float(env.p)) == (60, 5, goals, np.float32(0.07))
    assert env.action_space.n == 5
    assert not env.reset_on_switch and not env.decode_state
    assert np.array_equal(env.context_features(jnp.array(2)), np.eye(goals)[2])
    np.testing.assert_allclose(env.initial, np.full(goals, 1 / goals))


@pytest.mark.parametrize("cells", [3, 5])
def test_the_start_cell_is_uniform(cells):
    agent = np.asarray(jax.vmap(make(cells=cells).init_physics)(jax.random.split(jax.random.key(0), 20_000)).agent)
    assert agent.min() == 0 and agent.max() == cells - 1
    assert stats.chisquare(np.bincount(cells * agent[:, 0] + agent[:, 1], minlength=cells**2)).pvalue > 1e-3


# -- the ring ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("goals", [4, 8])
def test_a_switch_goes_to_the_next_goal_four_times_of_five_and_else_to_the_previous_one(goals):
    states, _ = played(make(goals), episodes=2000)
    context, switched = np.asarray(states.context), np.asarray(states.switched)[1:]
    assert abs(switched.mean() - 0.07) < 0.005
    for old in range(goals):
        ways = (context[1:] - old)[switched & (context[:-1] == old)] % goals
        counts = np.bincount(ways, minlength=goals)
        assert counts.sum() == counts[1] + counts[-1] > 500
        assert stats.binomtest(int(counts[1]), int(counts.sum()), 0.8).pvalue > 1e-3
    assert stats.chisquare(np.bincount(context[0], minlength=goals)).pvalue > 1e-3


def test_forward_is_the_probability_of_the_next_goal():
    expected = [[0, 0.3, 0, 0.7], [0.7, 0, 0.3, 0], [0, 0.7, 0, 0.3], [0.3, 0, 0.7, 0]]
    np.testing.assert_allclose(make(forward=0.3).kernel, expected, atol=1e-7)
    np.testing.assert_array_equal(make(8, forward=1.0).kernel, np.roll(np.eye(8), 1, axis=1))
    np.testing.assert_array_equal(make(8, forward=0.0).kernel, np.roll(np.eye(8), -1, axis=1))


# -- filter ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_filter_equals_one_that_knows_only_the_reward_of_each_cell_and_context(setting):
    goals, options = SETTINGS[setting]
    env, episodes = make(goals, horizon=30, **options), 16
    states, posteriors = played(env, episodes=episodes)
    agents, rewards, chain = np.asarray(states.physics.agent), np.asarray(states.reward), transition(env)
    kinds = set()
    for episode in range(episodes):
        expected = np.asarray(env.initial, float)
        np.testing.assert_allclose(posteriors[0, episode], expected, atol=1e-7)
        for t in range(1, env.horizon + 1):
            cell, reward = tuple(agents[t, episode].tolist()), rewards[t, episode]
            likely = np.array([abs(reward_of(env, cell, m) - reward) < 1e-6 for m in range(goals)])
            kinds.add(int(likely.sum()))
            expected = expected * likely
            expected = expected / expected.sum() @ chain
            np.testing.assert_allclose(posteriors[t, episode], expected, atol=1e-5)
    informative = {goals} if setting == "untold" else {1, goals - 1}
    assert informative <= kinds <= informative | {goals}


def test_the_posterior_stays_a_distribution_of_float32():
    posterior = played(make(8), episodes=64)[1]
    assert posterior.dtype == jnp.float32 and np.all(posterior >= 0)
    np.testing.assert_allclose(np.sum(posterior, axis=-1), 1.0, atol=1e-6)


def test_a_reward_that_was_held_to_be_impossible_leaves_what_it_fits():
    env = make(p=0.0)
    step = jax.jit(RingSolution(env).filter_step)
    certain = jnp.array([1.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(step(certain, at(env, (0, 0)), jnp.float32(0.0)), [0, 1 / 3, 1 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(step(certain, at(env, (4, 4)), jnp.float32(1.0)), [0, 0, 1, 0])


# -- posterior by a model of the reward --------------------------------------------------------------------------


@pytest.mark.parametrize("rewards", [(1.0, 0.0), (2.0, 0.5), (-1.0, 1.0)])
@pytest.mark.parametrize("goals", [4, 8])
def test_the_decoded_posterior_inverts_a_perfect_model_of_the_reward(goals, rewards):
    active, inactive = rewards
    env = make(goals, active_reward=active, inactive_reward=inactive)
    truth = np.random.default_rng(0).dirichlet(np.ones(goals))

    def decode(s, a, following):
        np.testing.assert_allclose(s, following)  # staying
        assert np.array_equal(a, [NOOP] * goals)
        np.testing.assert_allclose(s, np.array(GOALS[goals, 5]) / 4)
        return jnp.asarray(truth * active + (1 - truth) * inactive)

    np.testing.assert_allclose(RingSolution(env).decoded_posterior(at(env, (1, 3)), decode), truth, atol=1e-6)


@pytest.mark.parametrize(
    ("decoded", "expected"),
    [
        ((0.1, 0.9, 0.1, 0.1), (0.05, 0.85, 0.05, 0.05)),
        ((0.0, 0.2, 1.0, 0.0), (0.0, 0.1, 0.9, 0.0)),
        ((1.0, 0.0, 0.0, 1.0), (0.5, 0.0, 0.0, 0.5)),
        ((0.3, 0.1, 0.1, 0.1), (0.4, 0.2, 0.2, 0.2)),
        ((-1.0, 3.0, 0.0, -0.1), (0.0, 1.0, 0.0, 0.0)),
        ((0.0, 0.0, 0.0, 0.0), (0.25, 0.25, 0.25, 0.25)),
    ],
)
def test_the_decoded_posterior_of_an_imperfect_model_is_the_nearest_distribution(decoded, expected):
    solution = RingSolution(make())
    posterior = solution.decoded_posterior(at(make(), (1, 3)), lambda *_: jnp.array(decoded))
    np.testing.assert_allclose(posterior, expected, atol=1e-6)


def test_the_decoded_posterior_is_even_where_all_goals_pay_the_same():
    env = make(inactive_reward=1.0)
    posterior = RingSolution(env).decoded_posterior(at(env, (1, 3)), lambda *_: jnp.array([0.5, 0.7, 1.0, 2.0]))
    np.testing.assert_array_equal(posterior, [0.25] * 4)


# -- oracle ------------------------------------------------------------------------------------------------------


def search(env: Ring) -> float:
    """Return of the best policy that observes the context, by search over actions and contexts."""
    chain, contexts = transition(env), range(len(env.initial))
    moves = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))

    @functools.cache
    def value(t: int, x: int, y: int, context: int) -> float:
        if t == env.horizon:
            return 0.0
        worth = []
        for dx, dy in moves:
            cell = min(max(x + dx, 0), env.cells - 1), min(max(y + dy, 0), env.cells - 1)
            ahead = sum(chain[context, m] * value(t + 1, *cell, m) for m in contexts if chain[context, m])
            worth.append(reward_of(env, cell, context) + ahead)
        return max(worth)

    starts = [(x, y) for x in range(env.cells) for y in range(env.cells)]
    initial = np.asarray(env.initial, float)
    return float(np.mean([initial @ [value(0, *cell, m) for m in contexts] for cell in starts]))


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_oracle_return_equals_a_search_over_actions_and_contexts(setting):
    goals, options = SETTINGS[setting]
    env = make(goals, horizon=6, **options)
    assert exact.find(env).references() == {"oracle": pytest.approx(search(env), abs=1e-5)}


@pytest.mark.parametrize(("goals", "oracle"), [(4, 44.549), (8, 52.735)])
def test_going_straight_to_the_goal_that_pays_earns_nearly_what_the_oracle_does(goals, oracle):
    env, episodes = make(goals), 2048
    assert exact.find(env).references() == {"oracle": pytest.approx(oracle, abs=5e-4)}

    def step(state, _):
        dx, dy = env.goals[state.context] - state.physics.agent
        sideways, upright = jnp.where(dx > 0, RIGHT, LEFT), jnp.where(dy > 0, UP, DOWN)
        state = env.step(state, jnp.where(dx != 0, sideways, jnp.where(dy != 0, upright, NOOP)))
        return state, state.reward

    play = jax.jit(jax.vmap(lambda key: jax.lax.scan(step, env.reset(key), length=env.horizon)[1].sum()))
    returns = np.asarray(play(jax.random.split(jax.random.key(0), episodes)))
    assert abs(returns.mean() - oracle) < 0.5 + 3 * returns.std() / np.sqrt(episodes)


# -- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("goals", [0, 2, 5, 16, -4, True, 4.0, "4", None])
def test_a_ring_has_four_or_eight_goals(goals):
    with pytest.raises(UserError, match=f"^goals is {goals!r}; it must be 4 or 8$"):
        ring.make(goals)


@pytest.mark.parametrize(
    ("goals", "options", "cause"),
    [
        (4, {"cells": 1}, "cells is 1; it must be a whole number of at least 2"),
        (8, {"cells": 1}, "cells is 1; it must be a whole number of at least 3"),
        (4, {"cells": 2.5}, "cells is 2.5; it must be a whole number of at least 2"),
        (8, {"cells": "5"}, "cells is '5'; it must be a whole number of at least 3"),
        (8, {"cells": 4}, "cells is 4; with 8 goals it must be odd, so that the edges have a middle"),
        (4, {"forward": 1.1}, "forward is 1.1; it must be a probability, 0 to 1"),
        (8, {"forward": "often"}, "forward is 'often'; it must be a probability, 0 to 1"),
        (4, {"active_reward": float("inf")}, "active_reward of gridworld_ring4 is inf; it must be finite"),
        (8, {"initial": [0.25] * 4}, r"initial of gridworld_ring8 is \[0.25, .*\]; it must be 8 probabilities"),
        (4, {"initial": [0.2] * 5, "kernel": [[0.2] * 5] * 5}, "it must be 4 probabilities"),
        (4, {"goals": 8}, "gridworld_ring4 has no option 'goals'"),
        (4, {"contexts": 8}, "gridworld_ring4 has no option 'contexts'"),
    ],
)
def test_what_is_no_ring_is_refused_in_one_line(goals, options, cause):
    with pytest.raises(UserError, match=f"^env_options: .*{cause}") as caught:
        registry.make(f"gridworld_ring{goals}", **options)
    assert len(str(caught.value).splitlines()) == 1
