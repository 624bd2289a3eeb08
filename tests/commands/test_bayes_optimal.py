"""The command that prints the exact returns of the gridworld."""

import json
import sys

import pytest

from dynamite_envs import registry
from dynamite_envs.gridworld.exact import solve
from experiments.studies import bayes_optimal


@pytest.mark.parametrize(
    ("flag", "value", "named"),
    [
        ("--p", "2", "p of gridworld is 2"),
        ("--p", "-0.1", "p of gridworld is -0.1"),
        ("--p", "nan", "p of gridworld is nan"),
        ("--p", "often", "often"),
        ("--swap", "1.5", "1.5"),
        ("--horizon", "0", "horizon of gridworld is 0"),
        ("--horizon", "2.5", "2.5"),
        ("--active-reward", "inf", "active_reward of gridworld is inf"),
        ("--q", "0.1", "--q"),
    ],
)
def test_the_exact_values_need_numbers_that_can_be(refused, flag, value, named):
    assert named in refused(bayes_optimal, flag, value)


def test_the_exact_values_are_printed_as_one_json_line(monkeypatch, capfd):
    flags = {"p": 0.25, "swap": 0.5, "horizon": 3, "active_reward": 2.0, "inactive_reward": -1.0, "step_reward": 0.5}
    arguments = [argument for name, value in flags.items() for argument in (f"--{name.replace('_', '-')}", str(value))]
    monkeypatch.setattr(sys, "argv", ["bayes_optimal", *arguments])
    bayes_optimal.main()
    out, _ = capfd.readouterr()
    solution = solve(registry.make("gridworld", **flags))
    assert out.count("\n") == 1
    assert json.loads(out) == flags | {"bayes_optimal": solution.bayes_optimal, "oracle": solution.oracle}
