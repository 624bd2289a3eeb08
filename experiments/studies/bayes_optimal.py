"""Exact Bayes-optimal and oracle returns of the gridworld.

python -m experiments.studies.bayes_optimal --p 0.07 --swap 0.8 --horizon 60 --inactive-reward 0.0
"""

import dataclasses
import json
import sys
from dataclasses import dataclass

from dynamite_envs import registry
from dynamite_envs.gridworld.exact import solve
from dynamite_jax.errors import one_line_errors, parse


@dataclass(frozen=True)
class Arguments:
    """Exact Bayes-optimal and oracle returns of the gridworld, as one JSON line."""

    p: float = 0.07
    """Probability of a switch after each step."""
    swap: float = 0.8
    """Probability that a switch changes the paying goal."""
    horizon: int = 60
    """Steps of an episode."""
    active_reward: float = 1.0
    """Reward on the paying goal."""
    inactive_reward: float = 0.0
    """Reward on the other goal."""
    step_reward: float = -0.1
    """Reward anywhere else."""


@one_line_errors
def main() -> None:
    """Print one JSON line."""
    arguments = dataclasses.asdict(parse(Arguments, sys.argv[1:]))
    solution = solve(registry.make("gridworld", **arguments))
    print(json.dumps({**arguments, "bayes_optimal": solution.bayes_optimal, "oracle": solution.oracle}))


if __name__ == "__main__":
    main()
