"""Bad input ends in one line on stderr and exit code 2, before anything is compiled or overwritten."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynamite_envs import registry
from dynamite_envs.errors import UserError
from dynamite_envs.gridworld.exact import solve
from dynamite_jax import config as configs
from dynamite_jax import errors, presets
from dynamite_jax.commands import evaluate, train
from dynamite_jax.config import Config, PPOConfig, VAEConfig
from dynamite_jax.methods import METHODS
from dynamite_jax.runtime import loggers
from dynamite_jax.runtime.program import Program
from experiments.studies import bayes_optimal

Refused = Callable[..., str]
CHECKOUT = Path(__file__).parents[2]
FITTING = ("--num-envs", "1024", "--ppo.minibatches", "16", "--vae.minibatches", "8", "--vae.trajectories", "0")


def files(folder: Path) -> dict[str, bytes | None]:
    """Everything under a folder, with its contents."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def refused(monkeypatch, capfd, tmp_path) -> Refused:
    """Runs a command that must be refused, in an empty folder; gives the line it prints, without `error: `."""
    monkeypatch.chdir(tmp_path)

    def run(command: Any, *arguments: Any, compiles: bool = False) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [command.__name__, *map(str, arguments)])
            if not compiles:
                patch.setattr(Program, "compile", None)
            before = files(tmp_path)
            with pytest.raises(SystemExit) as stop:
                command.main()
        assert files(tmp_path) == before
        out, err = capfd.readouterr()
        assert (stop.value.code, out) == (2, "")
        return the_line(err)

    return run


def the_line(err: str) -> str:
    assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
    return err.removeprefix("error: ").strip()


def save_run(folder: Path) -> Path:
    """A run folder that holds only its config."""
    folder.mkdir()
    config = Config("gridworld", "dynamite", seeds=4, vae=VAEConfig(kl_weight=0.01), ppo=PPOConfig(lr=7e-4))
    configs.save(config, folder / "config.json")
    return folder


# -- train: arguments --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [["--env", "gridwrold"], ["--env=gridwrold"], ["--seeds", "2", "--env", "gridwrold"]])
def test_an_unknown_environment_is_answered_with_the_nearest_name(refused, flags):
    line = refused(train, *flags)
    assert line.startswith("env is 'gridwrold'; did you mean 'gridworld'?")
    assert all(name in line for name in registry.MAKERS)


def test_an_unknown_method_is_answered_with_the_nearest_name(refused):
    line = refused(train, "--method", "dynamit")
    assert line.startswith("method is 'dynamit'; did you mean 'dynamite'?")
    assert all(name in line for name in METHODS)


@pytest.mark.parametrize("flag", ["--colour", "--vae.colour", "--ppo"])
def test_an_unknown_flag_is_named(refused, flag):
    assert flag in refused(train, flag, "3")


def test_a_misspelt_flag_is_answered_with_the_nearest_one(refused):
    assert "--num-envs" in refused(train, "--numenvs", "64")


def test_a_stray_word_is_named(refused):
    assert "stray" in refused(train, "stray")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--steps", "many"),
        ("--steps", "1e6"),
        ("--seeds", "2.5"),
        ("--ppo.lr", "fast"),
        ("--vae.epochs", "x"),
        ("--network.policy-hidden", "a"),
        ("--vae.kl-target", "nothing"),
        ("--network.activation", "gelu"),
    ],
)
def test_an_unreadable_value_is_named_with_its_flag(refused, flag, value):
    line = refused(train, flag, value)
    assert flag in line and value in line


@pytest.mark.parametrize("flag", ["--env", "--method", "--out", "--steps"])
def test_a_flag_without_its_value_is_named(refused, flag):
    assert flag in refused(train, flag)


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("--steps", "0", "steps is 0; it must be 1 or more"),
        ("--steps", "-5", "steps is -5; it must be 1 or more"),
        ("--seeds", "0", "seeds is 0; it must be 1 or more"),
        ("--seed", "-1", "seed is -1; it must be 0 to 2^32 - 1"),
        ("--num-envs", "-64", "num_envs is -64; it must be 1 or more"),
        ("--chunk", "0", "chunk is 0; it must be 1 or more"),
        ("--ppo.lr", "-0.1", "ppo.lr is -0.1; it must be > 0"),
        ("--ppo.lr", "nan", "ppo.lr is nan; it must be a finite number"),
        ("--vae.lr", "inf", "vae.lr is inf; it must be a finite number"),
        ("--vae.kl-weight", "-1", "vae.kl_weight is -1.0; it must be 0 or more"),
        ("--vae.kl-weight", "nan", "vae.kl_weight is nan; it must be a finite number"),
        ("--ppo.gamma", "1.5", "ppo.gamma is 1.5; it must be between 0 and 1"),
        ("--ppo.entropy", "-0.1", "ppo.entropy is -0.1; it must be 0 or more"),
        ("--network.latent", "0", "network.latent is 0; it must be 1 or more"),
        ("--network.policy-hidden", "0", "network.policy_hidden is (0,); it must be a list of sizes of 1 or more"),
        ("--num-envs", "1000", "num_envs is 1000; it must be a multiple of ppo.minibatches, 16"),
        ("--vae.minibatches", "3", "num_envs is 1024; it must be a multiple of vae.minibatches, 3"),
        ("--vae.elbo-terms", "61", "vae.elbo_terms is 61; it must be at most the horizon, 60"),
    ],
)
def test_a_value_that_cannot_run_is_named_with_what_is_allowed(refused, flag, value, expected):
    assert refused(train, *FITTING, flag, value) == expected


def test_a_run_below_one_meta_update_is_refused(refused):
    line = refused(train, *FITTING, "--steps", "61439")
    assert line.startswith("steps is 61439;") and "61440" in line


def test_the_preset_of_the_chosen_environment_decides_what_fits(refused):
    preset = presets.default("probe_memory", "dynamite")
    wrong, steps = preset.ppo.minibatches + 1, preset.num_envs * 10
    for env in (["--env", "probe_memory"], ["--env=probe_memory"]):
        line = refused(train, *env, "--num-envs", wrong)
        assert line == f"num_envs is {wrong}; it must be a multiple of ppo.minibatches, {preset.ppo.minibatches}"
    assert f"num_envs x horizon = {steps} " in refused(train, "--env", "probe_memory", "--steps", steps - 1)


def test_the_chosen_scale_decides_what_fits(refused):
    preset = presets.default("probe_memory", "dynamite", "accelerator")
    line = refused(train, "--env", "probe_memory", "--scale", "accelerator", "--num-envs", "2047")
    assert line == f"num_envs is 2047; it must be a multiple of ppo.minibatches, {preset.ppo.minibatches}"
    assert "--scale" in refused(train, "--scale", "huge")


def test_minibatches_of_steps_are_refused_where_they_can_not_be(refused):
    line = refused(train, "--method", "rl2", "--ppo.shuffle", "steps")
    assert line == "ppo.shuffle is 'steps'; with method rl2 it must be 'episodes'"
    line = refused(train, *FITTING, "--ppo.shuffle", "steps", "--ppo.minibatches", "7")
    assert line == "ppo.minibatches is 7; it must divide num_envs x horizon, 61440"


def test_a_run_that_goes_on_takes_no_other_scale(refused, tmp_path):
    run = save_run(tmp_path / "run")
    line = refused(train, "--out", run, "--resume", "--scale", "accelerator")
    assert line == "scale is 'accelerator'; a run that goes on keeps its own, so leave it out"


@pytest.mark.parametrize(
    ("env", "entry", "named"),
    [
        ("gridworld", "p", "'p'"),
        ("gridworld", "p=often", "'p=often'"),
        ("gridworld", "p=2", "p of gridworld is 2"),
        ("gridworld", "p=NaN", "p of gridworld is nan"),
        ("gridworld", "swp=0.5", "did you mean 'swap'?"),
        ("gridworld", "horizon=0", "horizon of gridworld is 0"),
        ("gridworld", "kernel=[[0.5,0.6],[0.5,0.5]]", "kernel of gridworld is"),
        ("gridworld", "kernel=[[NaN,0.6],[0.5,0.5]]", "kernel of gridworld is"),
        ("gridworld", "initial=0.5", "initial"),
        ("gridworld", "active_reward=1e39", "active_reward of gridworld is 1e+39"),
        ("point_robot", "goals=0", "goals"),
    ],
)
def test_environment_options_that_cannot_be_are_named(refused, env, entry, named):
    assert named in refused(train, "--env", env, "--env-options", entry)


def test_environment_options_that_are_no_options_are_told_as_they_were_typed(refused):
    line = refused(train, "--env-options", "p=0.1", "kernel=[[1")
    expected = "env_options is 'kernel=[[1'; it must be name=value with a JSON value, such as p=0.1"
    assert line == f"--env-options: {expected}"


# -- train: folders ----------------------------------------------------------------------------------------------


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


# -- train: resume -----------------------------------------------------------------------------------------------


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


# -- the other commands ------------------------------------------------------------------------------------------


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
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    monkeypatch.setattr(sys, "argv", ["bayes_optimal", *words])
    bayes_optimal.main()
    out, _ = capfd.readouterr()
    solution = solve(registry.make("gridworld", **flags))
    assert out.count("\n") == 1
    assert json.loads(out) == flags | {"bayes_optimal": solution.bayes_optimal, "oracle": solution.oracle}


@pytest.mark.parametrize(
    ("module", "flags", "named"),
    [
        ("dynamite_jax.train", ["--env", "gridwrold"], "did you mean 'gridworld'?"),
        ("experiments.studies.bayes_optimal", ["--p", "2"], "p of gridworld is 2"),
    ],
)
def test_a_refused_command_says_one_line_and_leaves_nothing(tmp_path, module, flags, named):
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}  # experiments are not installed
    command = [sys.executable, "-m", module, *flags]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in the_line(done.stderr)
    assert not list(tmp_path.iterdir())


# -- the wrapper -------------------------------------------------------------------------------------------------


def test_a_message_of_several_lines_becomes_one(capsys):
    @errors.one_line_errors
    def main() -> None:
        raise UserError("first\n  second\tthird")

    with pytest.raises(SystemExit) as stop:
        main()
    assert (stop.value.code, capsys.readouterr().err) == (2, "error: first second third\n")


def test_what_the_parser_frames_in_a_box_becomes_one_line():
    for words in (["--colour"], ["--episodes", "some"], ["--run"], []):
        with pytest.raises(UserError) as caught:
            errors.parse(evaluate.Arguments, words)
        text = str(caught.value)
        assert text == " ".join(text.split()) and text.isascii() and "[0m" not in text


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, TypeError])
def test_an_error_that_is_no_bad_input_keeps_its_traceback(kind):
    @errors.one_line_errors
    def main() -> None:
        raise kind("a bug")

    with pytest.raises(kind, match="a bug"):
        main()


def test_a_bug_inside_a_command_traces_and_ends_with_exit_code_1(tmp_path):
    """A `ValueError` of NumPy, deep inside, is nothing that a person has typed wrong."""
    code = (
        "import sys, numpy\n"
        "from dynamite_jax.commands import train\n"
        "from dynamite_jax.runtime import training\n"
        "training.evaluate = lambda *arguments, **sizes: numpy.zeros(2).reshape(3)\n"
        "sys.argv = ['train', '--env', 'probe_match', '--method', 'markov', '--steps', '1280', '--seeds', '1']\n"
        "train.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "cannot reshape array" in done.stderr


def test_help_is_no_error(monkeypatch, capsys):
    for command in (train, evaluate, bayes_optimal):
        monkeypatch.setattr(sys, "argv", ["command", "--help"])
        with pytest.raises(SystemExit) as stop:
            command.main()
        assert not stop.value.code
        assert "--help" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, said",
    [
        (["train", "SEED=3"], "SEED is not a variable of this Makefile; known are ENV METHOD"),
        (["table", "METHOD=varibad"], "make table takes no METHOD=; it takes ENV METHODS SEEDS STEPS SCALE ARGS"),
        (["versus-torch", "SEEDS=3"], "make versus-torch takes no SEEDS=; it takes EXTRAS ENV ARGS"),
        (["benchmark", "SEEDS=3"], "make benchmark takes no SEEDS=; it takes EXTRAS ENV ARGS"),
        (["lint", "ARGS=-x"], "make lint takes no ARGS=; it takes none"),
    ],
)
def test_make_refuses_a_variable_that_would_change_nothing(words, said):
    found = subprocess.run(["make", "-n", *words], capture_output=True, text=True, cwd=CHECKOUT)
    assert found.returncode == 2
    assert said in found.stderr


ODD = "runs/it's a $HOME rün"


@pytest.mark.parametrize(
    "target, variable, said",
    [
        ("train", "OUT", "--out 'runs/it'\\''s a $HOME rün' \n"),
        ("eval", "RUN", "--run 'runs/it'\\''s a $HOME rün' \n"),
        ("animate", "RUN", "--run 'runs/it'\\''s a $HOME rün' \n"),
    ],
)
def test_make_hands_a_path_on_as_it_was_typed(target, variable, said):
    command = ["make", "--no-print-directory", "-n", target, f"{variable}={ODD}"]  # also where make runs the tests
    found = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT)
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith(said)


def test_make_runs_on_paths_with_spaces(tmp_path):
    """A real target, in a folder that has the Makefile and an environment that is set up."""
    commands = tmp_path / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name in ("pyproject.toml", "requirements.lock", ".venv/bin/uv", ".venv/.setup-dev"):
        (tmp_path / name).touch()
    (commands / "dynamite-jax").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dynamite_jax "$@"\n')
    (commands / "dynamite-jax").chmod(0o755)
    shutil.copy(CHECKOUT / "Makefile", tmp_path)
    for name in ("my rün", "other"):
        shutil.copytree(CHECKOUT / "tests" / "files" / "run_v0", tmp_path / "runs" / name)
    words = ["plot", "RUNS='runs/my rün' runs/other", "ARGS=--out 'two runs.png'"]
    done = subprocess.run(["make", *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two runs.png").stat().st_size > 1000


def test_make_takes_every_variable_that_its_help_names():
    for line in (CHECKOUT / "Makefile").read_text().splitlines():
        if found := re.match("([a-z-]+):.*## (.*)", line):
            target, said = found.groups()
            taken = set(re.findall(r"[A-Z]+(?==)", said))
            words = [f"{name}=1" for name in taken - {"EXTRAS", "SCALE"}]
            found = subprocess.run(["make", "-n", target, *words], capture_output=True, text=True, cwd=CHECKOUT)
            assert found.returncode == 0, found.stderr
