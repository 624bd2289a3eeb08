"""What docs/gymnasium.md shows, run as it stands, and what other people's trainers make of the environments."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dynamite_envs.gym  # noqa: F401, registers the environments

PAGE = Path(__file__).parents[1] / "docs" / "gymnasium.md"
CODE = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
USE, VECTOR, TRAIN = CODE


@pytest.mark.parametrize("code", [USE, VECTOR], ids=["one", "many"])
def test_a_step_is_made(code):
    names: dict[str, Any] = {}
    exec(code, names)
    rewards = np.atleast_1d(names["rewards"] if "rewards" in names else names["reward"])
    assert len(rewards) in (1, 16) and np.isfinite(rewards).all()


def test_recurrent_ppo_trains_in_ten_lines(capsys):
    pytest.importorskip("sb3_contrib", reason="Stable-Baselines3 is an extra: make setup EXTRAS=sb3")
    assert len(TRAIN.splitlines()) <= 10
    exec(TRAIN, {})
    mean, deviation = map(float, re.findall(r"-?[\d.]+", capsys.readouterr().out)[-2:])
    assert -6.0 <= mean <= 60.0 and deviation >= 0.0


@pytest.mark.parametrize("name", ["dynamite/Gridworld-v0", "dynamite/PointRobot-v0"])
def test_ppo_learns_the_same_from_the_same_seed(name):
    baselines = pytest.importorskip("stable_baselines3", reason="Stable-Baselines3 is an extra: make setup EXTRAS=sb3")

    def learnt(seed):
        model = baselines.PPO("MlpPolicy", name, n_steps=128, seed=seed, device="cpu")
        before = model.policy.state_dict()["action_net.weight"].numpy().copy()
        after = model.learn(total_timesteps=256).policy.state_dict()["action_net.weight"].numpy()
        assert np.isfinite(after).all() and not np.array_equal(before, after)
        return after

    first = learnt(0)
    np.testing.assert_array_equal(first, learnt(0))
    assert not np.array_equal(first, learnt(1))
