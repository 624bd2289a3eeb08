"""Run folders that are refused: by new runs, to resume, to evaluate."""

import json

import pytest

from dynamite_jax.commands import evaluate, train
from dynamite_jax.runtime import loggers
from refusals import save_run


def test_a_folder_below_a_file_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "run"
    line = refused(train, "--out", out)
    assert repr(str(out)) in line and "can't be written" in line


@pytest.mark.parametrize("content", ["config.json", "notes.txt", ".hidden"])
def test_a_folder_that_is_used_is_never_overwritten(refused, tmp_path, content):
    out = tmp_path / "used"
    out.mkdir()
    (out / content).write_text("mine")
    line = refused(train, "--out", out)
    assert repr(str(out)) in line and "already used" in line and "--resume" in line
    assert (out / content).read_text() == "mine"


def test_a_file_is_no_run_folder(refused, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert repr(str(tmp_path / "file")) in refused(train, "--out", tmp_path / "file")


def test_bad_arguments_leave_no_folder_behind(refused, tmp_path):
    refused(train, "--out", tmp_path / "a" / "b", "--ppo.lr", "-1")
    refused(train, "--steps", "10")
    assert not list(tmp_path.iterdir())


def test_a_logger_that_is_not_installed_leaves_no_folder_behind(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    line = refused(train, "--out", tmp_path / "new", "--wandb")
    assert line == "wandb is True; the package is missing, set up with `make setup EXTRAS=wandb`"
    assert not (tmp_path / "new").exists()


def test_to_resume_needs_a_folder(refused):
    assert refused(train, "--resume").startswith("out is not set")


def test_to_resume_needs_a_run(refused, tmp_path):
    for folder in (tmp_path / "none", tmp_path / "empty"):
        line = refused(train, "--out", folder, "--resume")
        assert repr(str(folder)) in line and "config.json" in line
        (tmp_path / "empty").mkdir(exist_ok=True)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--ppo.lr", "0.5"], ["ppo.lr: 0.0007 -> 0.5"]),
        (["--seeds", "7", "--vae.kl-weight", "0.5"], ["seeds: 4 -> 7", "vae.kl_weight: 0.01 -> 0.5"]),
        (["--env", "point_robot"], ["env: 'gridworld' -> 'point_robot'"]),
        (["--method", "varibad"], ["method: 'dynamite' -> 'varibad'"]),
        (["--env-options", "p=0.5"], ["env_options: {} -> {'p': 0.5}"]),
    ],
)
def test_a_run_resumes_only_with_its_own_config(refused, tmp_path, flags, named):
    line = refused(train, "--out", save_run(tmp_path / "run"), "--resume", *flags)
    assert line.startswith("resume: ") and str(tmp_path / "run") in line
    assert all(words in line for words in named)
    assert line.count("->") == len(named)


def test_a_run_whose_config_is_cut_short_does_not_resume(refused, tmp_path):
    path = save_run(tmp_path / "run") / "config.json"
    path.write_text(path.read_text()[:200])
    for command, flags in ((train, ["--out", path.parent, "--resume"]), (evaluate, ["--run", path.parent])):
        line = refused(command, *flags)
        assert str(path) in line and "not JSON" in line


@pytest.mark.parametrize(("field", "value"), [("env", "gridwrold"), ("method", "dynamit")])
def test_a_run_of_an_unknown_name_is_answered_with_the_nearest(refused, tmp_path, field, value):
    path = save_run(tmp_path / "run") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    for command, flags in ((train, ["--out", path.parent, "--resume"]), (evaluate, ["--run", path.parent])):
        line = refused(command, *flags, compiles=True)
        assert repr(value) in line and "did you mean" in line


def test_evaluation_needs_a_run(refused, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    for run in ("none", "folder", "file"):
        line = refused(evaluate, "--run", tmp_path / run)
        assert repr(str(tmp_path / run)) in line and "config.json" in line
    assert "--run" in refused(evaluate)


@pytest.mark.parametrize("value", ["0", "-1", "some"])
def test_evaluation_needs_episodes(refused, tmp_path, value):
    line = refused(evaluate, "--run", save_run(tmp_path / "run"), "--episodes", value)
    assert "episodes" in line and value in line
