"""What is known exactly of an environment: returns of reference agents, the Bayes filter, the regret of actions.

A solution lies beside its environment, which knows nothing of it; it is imported when it is asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from dynamite_envs.dlcmdp import FiniteDLCMDP

Array = jax.Array


@dataclass(frozen=True)
class ExactSolution:
    """What is known of one environment; a subclass adds the methods of the protocols below that it can compute.

    Attributes:
        env: the environment, all of whose numbers are respected.
    """

    env: Any

    def references(self) -> dict[str, float]:
        """Mean returns of episodes, such as `bayes_optimal` and `oracle`; computed, not looked up."""
        return {}


@runtime_checkable
class BayesFilter(Protocol):
    """The posterior of n contexts is known."""

    def init_posterior(self) -> Array:
        """Probabilities of the contexts before the first step, [n]."""
        ...

    def filter_step(self, posterior: Array, physics: Any, reward: Array) -> Array:
        """Take in one step.

        Args:
            posterior: P(m_t | everything before step t), [n].
            physics: physical state after the step.
            reward: reward of the step, [].

        Returns:
            P(m_{t+1} | everything up to step t), [n].
        """
        ...


@runtime_checkable
class RewardPosterior(Protocol):
    """A model of the reward implies a posterior of n contexts."""

    def decoded_posterior(self, physics: Any, decode_reward: Callable[[Array, Array, Array], Array]) -> Array:
        """The posterior that a model of the reward implies.

        Args:
            physics: physical state.
            decode_reward: expected reward of steps (s [k, O], a [k, ...], s' [k, O]) -> [k].

        Returns:
            Probabilities of the contexts, [n].
        """
        ...


@runtime_checkable
class Regret(Protocol):
    """The value of every action is known."""

    def regret(self, physics: Any, action: np.ndarray, reward: np.ndarray) -> np.ndarray:
        """How much less than the best the actions of episodes were worth.

        Args:
            physics: at s_0 .. s_H of N episodes, leaves [H + 1, N, ...].
            action: [H, N, ...], of an agent that does not observe the context.
            reward: [H, N].

        Returns:
            Bayes-optimal return minus that of the agent, estimated from each episode, [N].
        """
        ...


@runtime_checkable
class RegretOfDiscount(Protocol):
    """What a discount costs even a perfect learner is known."""

    def regret_of_discount(self, discount: float) -> float:
        """Regret of the best that an agent can learn which maximises discounted returns and sees no time left.

        Args:
            discount: at least 0 and below 1.

        Returns:
            Bayes-optimal return minus that of such an agent.
        """
        ...


Make = Callable[[Any], ExactSolution]

SOLUTIONS: dict[str, str | Make] = {
    "dynamite_envs.gridworld.env:Gridworld": "dynamite_envs.gridworld.exact:GridworldSolution",
    "dynamite_envs.gridworld.ring:Ring": "dynamite_envs.gridworld.ring_exact:RingSolution",
    "dynamite_envs.point_robot:PointRobot": "dynamite_envs.point_robot_exact:PointRobotSolution",
    "dynamite_envs.probes:ContextBandit": "dynamite_envs.probes_exact:ContextBanditSolution",
    "dynamite_envs.probes:Leaving": "dynamite_envs.probes_exact:LeavingSolution",
    "dynamite_envs.probes:Memory": "dynamite_envs.probes_exact:MemorySolution",
}


def register(environment: type, solution: str | Make) -> None:
    """Register how environments of a class, and of classes derived from it, are solved.

    Args:
        environment: the class.
        solution: environment -> solution, or where that function or class is, `module:name`.
    """
    SOLUTIONS[_name(environment)] = solution


def find(env: Any) -> ExactSolution:
    """The exact solution of an environment, whatever wraps it; of one without, a solution that knows nothing.

    None holds where switches draw the physical state anew: there they can be observed, and rewards were paid elsewhere.
    """
    env = env.unwrapped
    for environment in type(env).__mro__:
        solution = SOLUTIONS.get(_name(environment))
        if solution is not None and not env.reset_on_switch:
            return (resolve_name(solution) if isinstance(solution, str) else solution)(env)
    return ExactSolution(env)


def predict(env: FiniteDLCMDP, posterior: Array) -> Array:
    """The session process of one step, switch or not: P(m_t | evidence) -> P(m_{t+1} | evidence), [n]."""
    return (1.0 - env.p) * posterior + env.p * jnp.matmul(posterior, env.kernel, precision="highest")


def session_step(env: FiniteDLCMDP) -> np.ndarray:
    """Context transition of one step, switch or not, in float64, [n, n]."""
    p, kernel = float(env.p), np.asarray(env.kernel, float)
    return (1.0 - p) * np.eye(len(kernel)) + p * kernel


def _name(environment: type) -> str:
    return f"{environment.__module__}:{environment.__qualname__}"
