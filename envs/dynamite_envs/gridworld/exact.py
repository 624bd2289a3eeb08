"""Exact values of the gridworld by dynamic programming: the best without and with the context observed.

A reward reveals the context on the two goal cells and nothing elsewhere, so the belief P(m = A) takes few values:
the start distribution or one of the two certainties, carried on k steps by the session process. The finite-horizon
dynamic programme runs over (cell, belief), for every pair of goals.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dynamite_envs.exact import session_step
from dynamite_envs.gridworld.env import Gridworld
from dynamite_envs.gridworld.grid import Cells
from dynamite_envs.gridworld.grid_exact import GridSolution, arrivals

Array = np.ndarray


class GridworldSolution(GridSolution):
    """The belief is one number that takes few values, so that the value of every action is known."""

    env: Gridworld

    def references(self) -> dict[str, float]:
        """Exact Bayes-optimal and oracle returns."""
        values = solve(self.env)
        return {"bayes_optimal": values.bayes_optimal, "oracle": values.oracle}

    def regret(self, physics: Cells, action: Array, reward: Array) -> Array:
        """By the dynamic programme over (cell, belief)."""
        agent, goals = np.asarray(physics.agent), np.asarray(physics.goals)[0]
        return regret(self.env, agent, goals, action, reward)

    def regret_of_discount(self, discount: float) -> float:
        """By value iteration over (cell, belief)."""
        return regret_of_discount(self.env, discount)


@dataclass(frozen=True)
class Values:
    """Values and policy for all ordered pairs of distinct goals.

    Attributes:
        bayes_optimal: mean return of the Bayes-optimal policy over goal pairs, start cells and first contexts.
        oracle: the same for the best policy that observes the context at every step.
        pairs: goal cells, [P, 2].
        actions: Bayes-optimal action, [H, P, cells, beliefs]; None unless asked for.
        beliefs: P(m = A) of each belief index, [beliefs].
        after: index of the belief after a step without information, [beliefs].
        revealed: index of the belief after a reward that revealed m = A, m = B, [2].
    """

    bayes_optimal: float
    oracle: float
    pairs: Array
    actions: Array | None
    beliefs: Array
    after: Array
    revealed: Array


def solve(env, with_actions: bool = False) -> Values:
    """Solve the gridworld with the numbers of `env`.

    Args:
        env: any `Gridworld`; p, kernel, first-context distribution, rewards, size and horizon are all respected.
        with_actions: also return the optimal actions.

    Returns:
        The values, in float64.
    """
    _, beliefs, after, revealed = _beliefs(env)
    kept = []
    for values in _backward(env):
        if with_actions:
            kept.append(values[0].argmax(axis=1).astype(np.int8))
    worth, oracle = values
    return Values(
        bayes_optimal=float(worth.max(axis=1)[:, :, 0].mean()),
        oracle=float((oracle @ np.asarray(env.initial, float)).mean()),
        pairs=_pairs(env.cells**2),
        actions=np.stack(kept[::-1]) if with_actions else None,
        beliefs=beliefs,
        after=after,
        revealed=revealed,
    )


def regret(env, agent: Array, goals: Array, action: Array, reward: Array) -> Array:
    """How much less than the best the actions of each episode were worth, by the exact values of (cell, belief).

    Its mean over episodes of one agent estimates the Bayes-optimal return minus the agent's, without the noise of what
    start cells and contexts happen to pay. The agent must not observe the context.

    Args:
        env: any `Gridworld`.
        agent: cell before each step and after the last, x and y, [H + 1, N, 2].
        goals: cells of goal A and B, [N, 2, 2].
        action: [H, N].
        reward: [H, N].

    Returns:
        Sum over steps of the best action's value minus the chosen one's, in units of return, [N].
    """
    _, _, after, revealed = _beliefs(env)
    cell, goal = agent @ [env.cells, 1], goals @ [env.cells, 1]  # [H + 1, N], [N, 2]
    pair = goal[:, 0] * (env.cells**2 - 1) + goal[:, 1] - (goal[:, 1] > goal[:, 0])
    on_goal = cell[1:, :, None] == goal  # [H, N, 2]
    active, inactive = float(env.active_reward), float(env.inactive_reward)
    informative = on_goal.any(-1) & (active != inactive)
    paid = np.abs(reward - active) < np.abs(reward - inactive)
    belief = np.zeros_like(cell)  # index of the belief before each step
    for t in range(env.horizon):
        certain = revealed[np.where(on_goal[t, :, 0] == paid[t], 0, 1)]
        belief[t + 1] = np.where(informative[t], certain, after[belief[t]])
    lost = np.zeros(len(pair))
    for t, (worth, _) in zip(reversed(range(env.horizon)), _backward(env), strict=True):
        choices = worth[pair, :, cell[t], belief[t]]  # [N, actions]
        lost += choices.max(-1) - np.take_along_axis(choices, action[t][:, None], -1)[:, 0]
    return lost


def regret_of_discount(env, discount: float) -> float:
    """Regret that a discount costs even a perfect learner: that of the best policy of the endless discounted problem.

    Such a policy does not know how many steps are left, and prefers what pays sooner. Policies that bootstrap at the
    horizon and see no time have this policy as their best.

    Args:
        env: any `Gridworld`.
        discount: below 1.

    Returns:
        Bayes-optimal return of an episode minus that of the policy, in units of return.

    Raises:
        ValueError: the discount is not below 1, so that the endless problem has no values.
    """
    if not 0.0 <= discount < 1.0:
        raise ValueError(f"discount is {discount}; it must be at least 0 and below 1")
    choices = _choices(env)
    value = np.zeros((env.cells**2 * (env.cells**2 - 1), env.cells**2, len(_beliefs(env)[1])))
    while True:
        worth = choices(value, discount)
        following = worth.max(axis=1)
        moved = np.abs(following - value).max()
        value = following
        if moved < 1e-6:
            break
    policy = worth.argmax(axis=1)[:, None]
    value = np.zeros_like(value)
    for _ in range(env.horizon):
        value = np.take_along_axis(choices(value, 1.0), policy, axis=1)[:, 0]
    return solve(env).bayes_optimal - float(value[:, :, 0].mean())


def _pairs(cells: int) -> Array:
    """Ordered pairs of distinct cells, [P, 2]."""
    return np.array([(a, b) for a in range(cells) for b in range(cells) if a != b])


def _backward(env) -> Iterator[tuple[Array, Array]]:
    """From the last step to the first: values of the actions, and of the oracle's states.

    Yields:
        Value of each action for each belief, [P, actions, cells, beliefs], and of the best one where the context is
        observed, [P, cells, 2].
    """
    cells = env.cells**2
    step, beliefs, _, _ = _beliefs(env)
    pairs = _pairs(cells)
    arrival = arrivals(env.cells, env.moves)  # [actions, cells]
    active, inactive, elsewhere = float(env.active_reward), float(env.inactive_reward), float(env.step_reward)
    row, goals = np.arange(len(pairs)), pairs.T
    choices = _choices(env)
    value = np.zeros((len(pairs), cells, len(beliefs)))
    oracle = np.zeros((len(pairs), cells, 2))
    for _ in range(env.horizon):
        worth = choices(value, 1.0)
        privileged = elsewhere + oracle @ step.T  # value of arriving in a cell where the context is observed
        for m in range(2):
            privileged[row, goals[m], m] += active - elsewhere
            privileged[row, goals[1 - m], m] += inactive - elsewhere
        value, oracle = worth.max(axis=1), privileged[:, arrival].max(axis=1)
        yield worth, oracle


def _choices(env) -> Callable[[Array, float], Array]:
    """Values of the actions by those of what follows: [P, cells, beliefs], discount -> [P, actions, cells, beliefs]."""
    _, beliefs, after, revealed = _beliefs(env)
    pairs = _pairs(env.cells**2)
    arrival = arrivals(env.cells, env.moves)  # [actions, cells]
    active, inactive, elsewhere = float(env.active_reward), float(env.inactive_reward), float(env.step_reward)
    row = np.arange(len(pairs))

    def choices(value: Array, discount: float) -> Array:
        value = discount * value
        arrived = elsewhere + value[:, :, after]  # value of arriving in a cell with a belief
        for m, probability in enumerate((beliefs, 1.0 - beliefs)):
            here = row, pairs[:, m]
            if active != inactive:
                pay = active + value[here][:, revealed[m]]
                miss = inactive + value[here][:, revealed[1 - m]]
                arrived[here] = probability * pay[:, None] + (1.0 - probability) * miss[:, None]
            else:
                arrived[here] += active - elsewhere
        return arrived[:, arrival]

    return choices


def _beliefs(env) -> tuple[Array, Array, Array, Array]:
    """Session process of one step [2, 2]; beliefs; their successors; beliefs that a reward may reveal."""
    horizon, step = env.horizon, session_step(env)
    starts = np.stack([np.asarray(env.initial, float), step[0], step[1]])
    runs = np.stack([starts @ np.linalg.matrix_power(step, k) for k in range(horizon + 1)], axis=1)  # [3, H + 1, 2]
    index = np.arange(3 * (horizon + 1)).reshape(3, horizon + 1)
    after = np.concatenate([index[:, 1:], index[:, -1:]], axis=1).reshape(-1)
    return step, runs[..., 0].reshape(-1), after, index[1:, 0]
