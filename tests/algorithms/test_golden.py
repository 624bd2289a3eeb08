"""One meta-update of every method, frozen: losses, statistics and parameters move only when the algorithm does.

`PYTHONPATH=tests:tests/support python tests/algorithms/test_golden.py` writes them anew; such a commit explains why.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from conftest import build, compiled, tiny_config
from dynamite_jax.agents import running_statistics
from dynamite_jax.config import PhysicsConfig
from dynamite_jax.methods import of_setting

GOLDEN = Path(__file__).parents[1] / "files" / "golden.json"
TOLERANCE = 1e-5  # processors differ in the last bits, and their compilers in the order of sums
CASES = [(env, method) for env in ("gridworld", "point_robot") for method in of_setting("online")]
CASES += [("reacher", "dynamite")]  # physics compiles slowly, and methods don't see it
FLOOR = 0.05  # what is smaller is the difference of larger numbers, and has their rounding errors


def measured(env: str, method: str) -> dict[str, Any]:
    """Metrics, running moments, and norm and projection of every parameter after one meta-update of two seeds."""
    rates = {"vae": {"lr": 3e-3}, "ppo": {"lr": 3e-3, "entropy": 0.01}}
    config = tiny_config(env, method, chunk=1, env_options={"horizon": 12}, physics=PhysicsConfig(impl="jax"), **rates)
    states, values = jax.device_get(compiled(config)(build(config)[1]))
    numbers = {f"metrics.{name}": value for name, value in values.items()}
    for name in running_statistics.Quantities._fields:
        mean, deviation = running_statistics.moments(states.normaliser, name)
        numbers |= {f"statistics.{name}.mean": mean, f"statistics.{name}.deviation": deviation}
    numbers = {name: np.asarray(value, float).ravel().tolist() for name, value in numbers.items()}
    params = {"belief": states.belief_params, "policy": states.policy_params}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        flat = np.asarray(leaf, float).ravel()
        norm, projection = np.linalg.norm(flat), flat @ np.cos(np.arange(flat.size))
        numbers[f"params.{jax.tree_util.keystr(path, simple=True, separator='.')}"] = [float(norm), float(projection)]
    return numbers


@pytest.mark.parametrize("env, method", CASES)
def test_one_meta_update_gives_the_golden_numbers(env, method):
    expected, result = json.loads(GOLDEN.read_text())[f"{env} {method}"], measured(env, method)
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(FLOOR, *map(abs, value))
        np.testing.assert_allclose(result[name], value, rtol=0, atol=TOLERANCE * scale, err_msg=name)


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    golden = {f"{env} {method}": measured(env, method) for env, method in CASES}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
