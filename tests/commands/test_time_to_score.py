"""The command that says after how many seconds a run reached fractions of Bayes-optimal."""

import json
import shutil
import sys

import pytest

import dynamite_jax as dj
from conftest import tiny_config
from experiments.studies import time_to_score


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> dj.Run:
    config = tiny_config("gridworld", env_options={"horizon": 30, "step_reward": -0.3}, checkpoints_kept=0, steps=1_440)
    return dj.train(config, out=tmp_path_factory.mktemp("run") / "mine")


def test_every_checkpoint_is_played_and_the_first_that_reaches_a_fraction_is_named(run, monkeypatch, capsys):
    fractions = "-9 9"  # of Bayes-optimal, which random play does not come near
    command = f"time_to_score --run {run.folder} --episodes 1024 --fractions {fractions}"
    monkeypatch.setattr(sys, "argv", command.split())
    time_to_score.main()
    *points, low, high = map(json.loads, capsys.readouterr().out.splitlines())
    assert [point["chunk"] for point in points] == [1, 2, 3]
    assert [point["env_steps"] for point in points] == [480, 960, 1_440]
    assert (low, high) == ({"reached": -9.0, "at": points[0]}, {"reached": 9.0, "at": None})
    for point, record in zip(points, run.records, strict=True):
        assert point["wall_s"] == record["wall_s"]
    duration = 480 * 2 / run.records[0]["steps_per_s"]
    assert points[0]["seconds"] == pytest.approx(duration)
    assert points[2]["seconds"] - points[0]["seconds"] == pytest.approx(points[2]["wall_s"] - points[0]["wall_s"])
    assert len({point["fraction"] for point in points}) == 3
    evaluated = dj.evaluate(run, episodes=2_048)
    best = evaluated.record["references"]["bayes_optimal"]
    expected = evaluated.returns.mean() / best
    assert abs(expected) > 0.1 and points[-1]["fraction"] == pytest.approx(expected, abs=0.03)


def test_a_fraction_is_reached_where_it_is_first_passed(run):
    points = time_to_score.curve(run.folder, 64, seed=3)
    assert all(point["seconds"] < point["wall_s"] for point in points)  # which compiling is part of
    fractions = [point["fraction"] for point in points]
    highest = time_to_score.reached(points, max(fractions))
    assert highest is points[fractions.index(max(fractions))]
    assert time_to_score.reached(points, min(fractions)) is points[0]


def test_what_has_no_such_curve_is_refused(run, refused, tmp_path):
    assert "it must be a run folder" in refused(time_to_score, "--run", str(tmp_path / "nothing"))
    gone = shutil.copytree(run.folder, tmp_path / "gone")
    shutil.rmtree(gone / "checkpoints" / "2")
    assert "run keeps no checkpoint of chunk 2; train it with --checkpoint-every 1" in refused(
        time_to_score, "--run", str(gone)
    )
    stopped = shutil.copytree(run.folder, tmp_path / "stopped")
    with (stopped / "origins.jsonl").open("a") as origins:
        origins.write(json.dumps({"completed_chunks": 2}) + "\n")
    assert "was stopped and went on" in refused(time_to_score, "--run", str(stopped))
    (silent := shutil.copytree(run.folder, tmp_path / "silent") / "metrics.jsonl").write_text("")
    assert "which has no metrics.jsonl" in refused(time_to_score, "--run", str(silent.parent))
    assert "episodes is 0; it must be 1" in refused(time_to_score, "--run", str(run.folder), "--episodes", "0")
    unknown = shutil.copytree(run.folder, tmp_path / "unknown") / "config.json"
    unknown.write_text(json.dumps(json.loads(unknown.read_text()) | {"env": "point_robot", "env_options": {}}))
    assert "whose Bayes-optimal return is None; it must be known" in refused(
        time_to_score, "--run", str(unknown.parent)
    )
