"""The best return on a ring where the context is observed, by dynamic programming over (cell, context).

The Bayes-optimal return is not given. In the gridworld a goal that does not pay reveals the other one, so that the
belief takes few values. On a ring it only leaves the belief without that goal: each history of goals that did not pay
leaves another belief, and there are far too many.
"""

import numpy as np

from dynamite_envs.exact import session_step
from dynamite_envs.gridworld.grid_exact import GridSolution, arrivals
from dynamite_envs.gridworld.ring import Ring


class RingSolution(GridSolution):
    """The filter of the grids, and the return of an agent that observes the context."""

    env: Ring

    def references(self) -> dict[str, float]:
        """The exact oracle return."""
        return {"oracle": oracle_return(self.env)}


def oracle_return(env: Ring) -> float:
    """Mean return of the best policy that observes the context at every step, over start cells and first contexts.

    Args:
        env: any ring; p, kernel, first-context distribution, rewards, size and horizon are all respected.
    """
    n = len(np.asarray(env.initial))
    cell = np.asarray(env.goals) @ np.array([env.cells, 1])  # [n]
    reward = np.full((env.cells**2, n), float(env.step_reward))
    reward[cell] = float(env.inactive_reward)
    reward[cell, np.arange(n)] = float(env.active_reward)
    arrival, step = arrivals(env.cells, env.moves), session_step(env)
    value = np.zeros_like(reward)  # of being in a cell under a context
    for _ in range(env.horizon):
        value = (reward + value @ step.T)[arrival].max(axis=0)
    return float((value @ np.asarray(env.initial, float)).mean())
