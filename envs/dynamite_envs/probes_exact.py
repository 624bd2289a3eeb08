"""Best returns of the probes, in closed form."""

import numpy as np

from dynamite_envs.dlcmdp import FiniteDLCMDP
from dynamite_envs.exact import ExactSolution
from dynamite_envs.probes import ContextBandit, Memory


class ContextBanditSolution(ExactSolution):
    """Every reward, right or wrong, leaves one context possible, so that the best return is a sum of odds."""

    env: ContextBandit

    def references(self) -> dict[str, float]:
        """The odds of context 1 at every step; or those of the likeliest context, at first and given the one before."""
        initial, step = np.asarray(self.env.initial), _session_step(self.env)
        marginals = [initial @ np.linalg.matrix_power(step, t) for t in range(self.env.horizon)]
        if not self.env.match:
            return {"bayes_optimal": float(sum(m[1] for m in marginals))}
        return {"bayes_optimal": float(initial.max() + sum(m @ step.max(axis=1) for m in marginals[:-1]))}


class MemorySolution(ExactSolution):
    """The first reward tells the context; the session process carries it on to the last step."""

    env: Memory

    def references(self) -> dict[str, float]:
        """The mean cue, and the odds of the likeliest last context given the first."""
        initial, steps = np.asarray(self.env.initial, float), self.env.horizon - 1
        paid = initial.max()  # where the only action comes before the cue
        if steps:
            paid = initial @ np.linalg.matrix_power(_session_step(self.env), steps).max(axis=1)
        return {"bayes_optimal": float(initial[1] - initial[0] + paid)}


def _session_step(env: FiniteDLCMDP) -> np.ndarray:
    """Context transition of one step, switch or not, [n, n]."""
    p, kernel = float(env.p), np.asarray(env.kernel, float)
    return (1.0 - p) * np.eye(len(kernel)) + p * kernel
