"""Exact solutions are looked up by the class of an environment, and by nothing in the environment."""

import subprocess
import sys

import numpy as np
import pytest

from dynamite_envs import exact, registry
from dynamite_envs.exact import BayesFilter, ExactSolution, Regret, RegretOfDiscount, RewardPosterior
from dynamite_envs.point_robot import PointRobot

SOLUTIONS = {
    "gridworld": {BayesFilter, Regret, RegretOfDiscount, RewardPosterior},
    "gridworld_ring4": {BayesFilter, RewardPosterior},
    "gridworld_ring8": {BayesFilter, RewardPosterior},
    "point_robot": {BayesFilter},
    "probe_match": set(),
    "reacher": set(),
    "scratch_itch": set(),
}


@pytest.mark.parametrize("name", SOLUTIONS)
def test_what_is_known_of_an_environment(name):
    solution = exact.find(registry.make(name))
    kinds = (BayesFilter, Regret, RegretOfDiscount, RewardPosterior)
    assert {kind for kind in kinds if isinstance(solution, kind)} == SOLUTIONS[name]
    assert type(solution) is not ExactSolution or solution.references() == {}


@pytest.mark.parametrize("name", ["gridworld", "gridworld_ring4", "point_robot", "probe_memory"])
def test_nothing_is_known_where_switches_redraw_the_physical_state(name):
    assert type(exact.find(registry.make(name))) is not ExactSolution
    assert type(exact.find(registry.make(name, reset_on_switch=True))) is ExactSolution


def test_a_solution_of_ones_own_holds_for_a_class_and_what_derives_from_it(monkeypatch):
    monkeypatch.setattr(exact, "SOLUTIONS", dict(exact.SOLUTIONS))

    class Robot(PointRobot):
        pass

    class Nimble(Robot):
        pass

    class Known(ExactSolution):
        def references(self) -> dict[str, float]:
            return {"bayes_optimal": -float(self.env.horizon)}

    fields = {"p": 0.1, "horizon": 3, "initial": np.ones(2) / 2, "kernel": np.ones((2, 2)) / 2}
    assert isinstance(exact.find(Nimble(**fields)), BayesFilter)  # as a point robot
    exact.register(Robot, Known)
    for kind in (Robot, Nimble):
        assert exact.find(kind(**fields)).references() == {"bayes_optimal": -3.0}
    assert isinstance(exact.find(PointRobot(**fields)), BayesFilter)


def test_solutions_are_imported_when_they_are_asked_for():
    lines = [
        "import sys",
        "from dynamite_envs import exact, registry",
        "env = registry.make('gridworld')",
        "print('dynamite_envs.gridworld.exact' in sys.modules)",
        "print(type(exact.find(env)).__name__, 'dynamite_envs.point_robot' in sys.modules)",
    ]
    output = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["False", "GridworldSolution", "False"]
