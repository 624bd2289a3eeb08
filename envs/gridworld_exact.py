"""Exact values of the gridworld by dynamic programming: the best any agent can do, and the best with the context told.

A reward tells the context on the two goal cells and nothing elsewhere, so the belief P(m = A) takes few values:
the start distribution or one of the two certainties, carried on k steps by the session process. The finite-horizon
dynamic programme runs over (cell, belief), for every pair of goals.
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Solution:
    """Values and policy for all ordered pairs of distinct goals.

    Attributes:
        bayes_optimal: mean return of the Bayes-optimal policy over goal pairs, start cells and first contexts.
        oracle: the same for the best policy that is told the context at every step.
        pairs: goal cells, [P, 2].
        actions: Bayes-optimal action, [H, P, cells, beliefs]; None unless asked for.
        beliefs: P(m = A) of each belief index, [beliefs].
        after: index of the belief after a step without information, [beliefs].
        revealed: index of the belief after a reward that told m = A, m = B, [2].
    """

    bayes_optimal: float
    oracle: float
    pairs: Array
    actions: Array | None
    beliefs: Array
    after: Array
    revealed: Array


def solve(env, with_actions: bool = False) -> Solution:
    """Solve the gridworld with the numbers of `env`.

    Args:
        env: any `Gridworld`; p, kernel, first-context distribution, rewards, size and horizon are all respected.
        with_actions: also return the optimal actions.

    Returns:
        The solution, in float64.
    """
    horizon, cells = env.horizon, env.cells**2
    step, beliefs, after, revealed = _beliefs(env)
    pairs = np.array([(a, b) for a in range(cells) for b in range(cells) if a != b])
    arrival = _arrivals(env.cells, env.moves)  # [actions, cells]
    active, inactive, elsewhere = float(env.active_reward), float(env.inactive_reward), float(env.step_reward)
    tells = active != inactive
    goal = np.arange(len(pairs)), pairs.T  # rows of pairs, and their two goal cells

    value = np.zeros((len(pairs), cells, len(beliefs)))
    oracle = np.zeros((len(pairs), cells, 2))
    actions = np.zeros((horizon, len(pairs), cells, len(beliefs)), np.int8) if with_actions else None
    for t in reversed(range(horizon)):
        arrived = elsewhere + value[:, :, after]  # value of arriving in a cell with a belief
        told = elsewhere + oracle @ step.T
        for m, probability in enumerate((beliefs, 1.0 - beliefs)):
            here, other = (goal[0], goal[1][m]), (goal[0], goal[1][1 - m])
            if tells:
                pay = active + value[here][:, revealed[m]]
                miss = inactive + value[here][:, revealed[1 - m]]
                arrived[here] = probability * pay[:, None] + (1.0 - probability) * miss[:, None]
            else:
                arrived[here] += active - elsewhere
            told[(*here, np.full(len(pairs), m))] += active - elsewhere
            told[(*other, np.full(len(pairs), m))] += inactive - elsewhere
        if actions is not None:
            actions[t] = arrived[:, arrival].argmax(axis=1)
        value = arrived[:, arrival].max(axis=1)
        oracle = told[:, arrival].max(axis=1)
    first = np.asarray(env.initial, float)
    return Solution(
        bayes_optimal=float(value[:, :, 0].mean()),
        oracle=float((oracle @ first).mean()),
        pairs=pairs,
        actions=actions,
        beliefs=beliefs,
        after=after,
        revealed=revealed,
    )


def _beliefs(env) -> tuple[Array, Array, Array, Array]:
    """Session process of one step [2, 2]; beliefs; their successors; what a telling reward leaves behind."""
    horizon, p = env.horizon, float(env.p)
    step = (1.0 - p) * np.eye(2) + p * np.asarray(env.kernel, float)
    starts = np.stack([np.asarray(env.initial, float), step[0], step[1]])
    runs = np.stack([starts @ np.linalg.matrix_power(step, k) for k in range(horizon + 1)], axis=1)  # [3, H + 1, 2]
    index = np.arange(3 * (horizon + 1)).reshape(3, horizon + 1)
    after = np.concatenate([index[:, 1:], index[:, -1:]], axis=1).reshape(-1)
    return step, runs[..., 0].reshape(-1), after, index[1:, 0]


def _arrivals(side: int, moves) -> Array:
    """Cell reached from each cell by each action, [actions, cells]."""
    x, y = np.divmod(np.arange(side**2), side)
    clip = lambda v: np.clip(v, 0, side - 1)  # noqa: E731
    return np.stack([clip(x + dx) * side + clip(y + dy) for dx, dy in moves])
