"""The exact values of the gridworld, and the regret of actions by them."""

import functools
import itertools
from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynamite_envs import exact
from dynamite_envs.gridworld import exact as gridworld_exact
from dynamite_envs.gridworld.env import Gridworld
from dynamite_envs.gridworld.exact import GridworldSolution
from gridworlds import ASYMMETRIC, SETTINGS, make, reward_of, transition

# -- exact values ------------------------------------------------------------------------------------------------


def geometry(side: int) -> tuple[list[tuple[int, int]], list[list[tuple[int, int]]]]:
    """Cells, and the cell that each action reaches from each."""
    cells = [(x, y) for x in range(side) for y in range(side)]
    moves = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))

    def clip(v):
        return min(max(v, 0), side - 1)

    return cells, [[(clip(x + dx), clip(y + dy)) for dx, dy in moves] for x, y in cells]


def expectimax(env: Gridworld) -> float:
    """Bayes-optimal return by search over actions and rewards; knows of the reward only P(r | cell, m)."""
    cells, reached = geometry(env.cells)
    chain, initial = transition(env), np.asarray(env.initial, float)

    def value_of(goals: tuple) -> float:
        @functools.cache
        def value(t: int, cell: tuple[int, int], belief: float) -> float:
            if t == env.horizon:
                return 0.0
            best = -np.inf
            for following in reached[cells.index(cell)]:
                on = goals.index(following) if following in goals else None
                outcomes = defaultdict(lambda: np.zeros(2))
                for m, probability in enumerate((belief, 1 - belief)):
                    outcomes[reward_of(env, on, m)][m] += probability
                total = 0.0
                for reward, joint in outcomes.items():
                    if joint.sum() > 0:
                        ahead = float((joint / joint.sum() @ chain)[0])
                        total += joint.sum() * (reward + value(t + 1, following, round(ahead, 12)))
                best = max(best, total)
            return best

        return float(np.mean([value(0, cell, float(initial[0])) for cell in cells]))

    return float(np.mean([value_of(goals) for goals in itertools.permutations(cells, 2)]))


def oracle_return(env: Gridworld) -> float:
    """Return of the best policy that observes the context, by value iteration over (cell, context)."""
    cells, reached = geometry(env.cells)
    chain, initial = transition(env), np.asarray(env.initial, float)
    returns = []
    for goals in itertools.permutations(cells, 2):
        on = {cell: goals.index(cell) if cell in goals else None for cell in cells}
        value = {(cell, m): 0.0 for cell in cells for m in (0, 1)}
        for _ in range(env.horizon):
            ahead = {(c, m): chain[m, 0] * value[c, 0] + chain[m, 1] * value[c, 1] for c in cells for m in (0, 1)}
            pays = {(c, m): reward_of(env, on[c], m) + ahead[c, m] for c in cells for m in (0, 1)}
            value = {(c, m): max(pays[n, m] for n in reached[i]) for i, c in enumerate(cells) for m in (0, 1)}
        returns.append(np.mean([initial @ [value[cell, 0], value[cell, 1]] for cell in cells]))
    return float(np.mean(returns))


@pytest.mark.parametrize("size", [(2, 5), (3, 4)])
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_bayes_optimal_return_equals_a_search_over_the_belief_tree(setting, size):
    cells, horizon = size
    env = make(cells=cells, horizon=horizon, **SETTINGS[setting])
    assert gridworld_exact.solve(env).bayes_optimal == pytest.approx(expectimax(env), abs=1e-7)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_oracle_return_equals_value_iteration_over_cells_and_contexts(setting):
    env = make(cells=3, horizon=7, **SETTINGS[setting])
    assert gridworld_exact.solve(env).oracle == pytest.approx(oracle_return(env), abs=1e-7)


@pytest.mark.parametrize("setting", SETTINGS)
def test_nobody_beats_the_oracle(setting):
    solution = gridworld_exact.solve(make(cells=3, horizon=12, **SETTINGS[setting]))
    assert solution.bayes_optimal <= solution.oracle + 1e-6


def test_without_switches_every_step_pays_once_the_search_is_over():
    long, longer = (gridworld_exact.solve(make(cells=3, p=0.0, horizon=h)) for h in (40, 41))
    assert longer.bayes_optimal - long.bayes_optimal == pytest.approx(1.0, abs=1e-9)
    assert longer.oracle - long.oracle == pytest.approx(1.0, abs=1e-9)
    assert longer.oracle - longer.bayes_optimal > 0.1


def test_without_switches_the_oracle_goes_straight_to_its_goal():
    ways = [max(abs(a - b) + abs(c - d) - 1, 0) for a, b, c, d in itertools.product(range(3), repeat=4)]
    solution = gridworld_exact.solve(make(cells=3, p=0.0, horizon=20, inactive_reward=-0.1))
    assert solution.oracle == pytest.approx(20 - 1.1 * np.mean(ways), abs=1e-6)


def test_a_fair_redraw_at_every_step_makes_information_worthless():
    blind = gridworld_exact.solve(make(cells=3, horizon=10, active_reward=0.5, inactive_reward=0.5))
    redrawn = gridworld_exact.solve(make(cells=3, horizon=10, p=1.0, swap=0.5))
    assert redrawn.bayes_optimal == pytest.approx(blind.bayes_optimal, abs=1e-6)
    assert redrawn.oracle > redrawn.bayes_optimal + 0.1


def test_only_the_product_of_switching_and_swapping_matters():
    one, other = (gridworld_exact.solve(make(cells=3, horizon=10, p=p, swap=s)) for p, s in ((0.25, 0.5), (0.125, 1.0)))
    assert one.bayes_optimal == pytest.approx(other.bayes_optimal, abs=1e-12)
    assert one.oracle == pytest.approx(other.oracle, abs=1e-12)


def test_rewards_scale_and_shift_the_values():
    rewards = {"active_reward": 1.0, "inactive_reward": 0.0, "step_reward": -0.125}
    plain = gridworld_exact.solve(make(cells=3, horizon=10, **rewards))
    changed = gridworld_exact.solve(make(cells=3, horizon=10, **{k: 2 * v + 1 for k, v in rewards.items()}))
    assert changed.bayes_optimal == pytest.approx(2 * plain.bayes_optimal + 10, abs=1e-6)
    assert changed.oracle == pytest.approx(2 * plain.oracle + 10, abs=1e-6)


def test_references_are_the_exact_values():
    env = make(cells=3, horizon=8)
    solution = gridworld_exact.solve(env)
    assert exact.find(env).references() == {"bayes_optimal": solution.bayes_optimal, "oracle": solution.oracle}
    assert solution.actions is None


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.slow, id="default"),
        pytest.param({"horizon": 20}, id="shorter"),
        pytest.param({"cells": 4, "horizon": 25, "p": 0.15, "inactive_reward": -0.3, **ASYMMETRIC}, id="asymmetric"),
    ],
)
def test_the_bayes_optimal_policy_earns_its_value_in_the_environment(options):
    episodes, env = 8192, make(**options)
    bayes_filter = GridworldSolution(env)
    solution, n = gridworld_exact.solve(env, with_actions=True), env.cells**2
    assert solution.actions is not None
    actions, beliefs, after, revealed = (
        jnp.asarray(x) for x in (solution.actions, solution.beliefs, solution.after, solution.revealed)
    )

    def cell(xy):
        return xy[..., 0] * env.cells + xy[..., 1]

    def step(carry, now):
        state, index, posterior = carry
        first, second = cell(state.physics.goals)
        pair = first * (n - 1) + second - (second > first)
        state = env.step(state, now[pair, cell(state.physics.agent), index].astype(jnp.int32))
        on_goal = jnp.all(state.physics.goals == state.physics.agent, -1)
        is_first = on_goal[0] == (state.reward == env.active_reward)
        index = jnp.where(jnp.any(on_goal), revealed[jnp.where(is_first, 0, 1)], after[index])
        posterior = bayes_filter.filter_step(posterior, state.physics, state.reward)
        return (state, index, posterior), (state.reward, jnp.abs(posterior[0] - beliefs[index]))

    @jax.jit
    def play(key, actions):
        start = (env.reset(key), jnp.int32(0), bayes_filter.init_posterior())
        rewards, errors = jax.lax.scan(step, start, actions)[1]
        return rewards.sum(), errors.max()

    keys = jax.random.split(jax.random.key(0), episodes)
    returns, errors = (np.asarray(x, float) for x in jax.vmap(play, in_axes=(0, None))(keys, actions))
    assert errors.max() < 1e-5  # the solver's beliefs are the filter's
    assert abs(returns.mean() - solution.bayes_optimal) < 3 * returns.std() / np.sqrt(episodes)


# -- regret -------------------------------------------------------------------------------------------------------


def episodes(env: Gridworld, choose, count: int) -> tuple:
    """Physics at s_0 .. s_H, actions and rewards of a policy (t, state, key) -> action, [H(+1), N]."""

    def step(state, now):
        t, key = now
        action = choose(t, state, key)
        after = env.step(state, action)
        return after, (state.physics, action, after.reward)

    @jax.jit
    @jax.vmap
    def play(key):
        keys = jax.random.split(jax.random.fold_in(key, 1), env.horizon)
        end, (physics, action, reward) = jax.lax.scan(step, env.reset(key), (jnp.arange(env.horizon), keys))
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), physics, end.physics), action, reward

    played = play(jax.random.split(jax.random.key(0), count))
    return jax.tree.map(lambda x: np.moveaxis(np.asarray(x), 1, 0), played)


def uniformly(t, state, key):
    return jax.random.randint(key, (), 0, 5)


def to_the_first_goal(t, state, key):
    """Walks to goal A and stays there, paid or not."""
    dx, dy = state.physics.goals[0] - state.physics.agent
    return jnp.where(dx != 0, jnp.where(dx > 0, 2, 4), jnp.where(dy == 0, 0, jnp.where(dy > 0, 1, 3)))


@pytest.mark.parametrize("choose", [uniformly, to_the_first_goal])
@pytest.mark.parametrize("setting", SETTINGS)
def test_mean_regret_is_the_distance_from_the_bayes_optimal_return(setting, choose):
    env = make(cells=3, horizon=12, **SETTINGS[setting])
    physics, action, reward = episodes(env, choose, 8192)
    lost = GridworldSolution(env).regret(physics, action, reward)
    assert lost.shape == (8192,) and lost.min() >= 0
    missing = gridworld_exact.solve(env).bayes_optimal - reward.sum(0)
    assert abs(lost.mean() - missing.mean()) < 4 * (missing - lost).std() / np.sqrt(8192) + 1e-6


# Goal A pays for ever and goal B is a cell like any other: the best is to walk to A and stay.
ONE_GOAL = {"cells": 3, "p": 0.0, "horizon": 8, "initial": [1.0, 0.0], "inactive_reward": -0.1}


def test_the_best_policy_has_no_regret():
    env = make(**ONE_GOAL)
    np.testing.assert_allclose(GridworldSolution(env).regret(*episodes(env, to_the_first_goal, 64)), 0.0, atol=1e-5)


def test_a_wasted_step_is_regretted_by_the_payment_it_costs():
    env = make(**ONE_GOAL)

    def wait(t, state, key):
        return jnp.where(t == 3, 0, to_the_first_goal(t, state, key))

    physics, action, reward = episodes(env, wait, 64)
    away = (physics.agent[3] != physics.goals[0][:, 0]).any(-1)
    assert 0 < away.sum() < 64
    np.testing.assert_allclose(
        GridworldSolution(env).regret(physics, action, reward), np.where(away, 1.1, 0.0), atol=1e-5
    )


@pytest.mark.timeout(60)  # without its discount the problem is endless
def test_a_discount_of_0_walks_to_no_goal_that_is_not_next_to_it():
    """From d >= 2 steps away the goal's payment is lost for ever, from the d-th step on."""
    env = make(**ONE_GOAL)
    cells = [(x, y) for x in range(3) for y in range(3)]
    distance = np.array([abs(x - u) + abs(y - v) for x, y in cells for u, v in cells])
    lost = np.where(distance >= 2, 1.1 * (env.horizon - distance + 1), 0.0)
    assert gridworld_exact.regret_of_discount(env, 0.0) == pytest.approx(lost.mean())


@pytest.mark.timeout(60)  # without its discount the problem is endless
def test_a_discount_costs_nothing_where_the_nearest_goal_is_the_best():
    assert gridworld_exact.regret_of_discount(make(**ONE_GOAL), 0.9) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.timeout(60)  # without its discount the problem is endless
def test_a_lower_discount_costs_more():
    env = make(cells=3, horizon=12)
    floors = [gridworld_exact.regret_of_discount(env, discount) for discount in (0.3, 0.6, 0.9)]
    assert floors == sorted(floors, reverse=True) and floors[-1] > 0.0


@pytest.mark.timeout(60)  # without its discount the problem is endless
@pytest.mark.parametrize("discount", [1.0, -0.1, float("nan")])
def test_a_problem_without_values_is_refused(discount):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        gridworld_exact.regret_of_discount(make(), discount)
