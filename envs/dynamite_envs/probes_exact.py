"""Best returns of the probes, in closed form."""

import numpy as np

from dynamite_envs.exact import ExactSolution, session_step
from dynamite_envs.probes import ContextBandit, Leaving, Memory


class ContextBanditSolution(ExactSolution):
    """Every reward, right or wrong, leaves one context possible, so that the best return is a sum of odds."""

    env: ContextBandit

    def references(self) -> dict[str, float]:
        """The odds of context 1 at every step; or those of the likeliest context, at first and given the one before."""
        initial, step = np.asarray(self.env.initial), session_step(self.env)
        marginals = [initial @ np.linalg.matrix_power(step, t) for t in range(self.env.horizon)]
        if not self.env.match:
            return {"bayes_optimal": float(sum(m[1] for m in marginals))}
        return {"bayes_optimal": float(initial.max() + sum(m @ step.max(axis=1) for m in marginals[:-1]))}


class MemorySolution(ExactSolution):
    """The first reward reveals the context; the session process carries it on to the last step."""

    env: Memory

    def references(self) -> dict[str, float]:
        """The mean cue, and the odds of the likeliest last context given the first."""
        initial, steps = np.asarray(self.env.initial, float), self.env.horizon - 1
        paid = initial.max()  # where the only action comes before the cue
        if steps:
            paid = initial @ np.linalg.matrix_power(session_step(self.env), steps).max(axis=1)
        return {"bayes_optimal": float(initial[1] - initial[0] + paid)}


class LeavingSolution(ExactSolution):
    """The reward of staying reveals the context of the step; leaving ends all."""

    env: Leaving

    def references(self) -> dict[str, float]:
        """By dynamic programming over the context of the step before, which the reward of staying reveals."""
        step, leave, goes_on = session_step(self.env), float(self.env.leave), 1.0 - float(self.env.end)

        def best(odds: np.ndarray, after: np.ndarray) -> float:
            """Value of a step, given the odds of its context and the value of the next step after each context."""
            return max(leave, float(odds @ (np.arange(2.0) + goes_on * after)))

        after = np.zeros(2)
        for _ in range(self.env.horizon - 1):
            after = np.array([best(odds, after) for odds in step])
        return {"bayes_optimal": best(np.asarray(self.env.initial, float), after)}
