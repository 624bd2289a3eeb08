"""Inputs that can't be used: exit code 2, one line with the field, the value and what is allowed, nothing changed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import tiny_config
from damage import cut, flip, largest
from dynamite_jax.commands import (
    ablations,
    beliefs,
    bench,
    collect,
    evaluate,
    export,
    plot,
    report,
    sweep_p,
    table,
    train,
    tune,
    video,
)
from dynamite_jax.config import SCHEMA
from dynamite_jax.runtime import training

METHODS = "allowed: dynamite, varibad, secbad, contrabar, rl2, task_inference, oracle, markov, borel"
FLAGS = {
    "no number": (train, "--steps many", "--steps: invalid literal for int() with base 10: 'many'"),
    "too small": (train, "--seeds 0", "seeds is 0; it must be 1 or more"),
    "not finite": (train, "--ppo.lr nan", "ppo.lr is nan; it must be a finite number"),
    "out of range": (train, "--ppo.gamma 1.5", "ppo.gamma is 1.5; it must be between 0 and 1"),
    "no choice": (
        train,
        "--network.activation gelu",
        "'gelu' for argument '--network.activation'. Expected one of ('t",
    ),
    "no policy": (train, "--not-finite ignore", "'ignore' for argument '--not-finite'. Expected one of ('stop', 'skip"),
    "no engine": (train, "--physics.impl cuda", "'cuda' for argument '--physics.impl'. Expected one of ('auto', 'c', "),
    "misspelt": (train, "--ppo.lrr 0.1", "Unrecognized options: --ppo.lrr, 0.1 Perhaps you meant: --ppo.lr"),
    "no method": (train, "--method dynamit", f"method is 'dynamit'; did you mean 'dynamite'? {METHODS}"),
    "a method of several": (table, "--methods dynamite rl3", f"method is 'rl3'; did you mean 'rl2'? {METHODS}"),
    "no data": (
        train,
        "--setting offline",
        "offline.data is ''; with setting 'offline' it must be a folder of recorded",
    ),
    "data of nobody": (
        train,
        "--setting offline --offline.data nowhere",
        "data is 'nowhere'; it must be a folder with a card.json",
    ),
    "no kept checkpoints": (train, "--checkpoints-kept -1", "checkpoints_kept is -1; it must be 0 or more"),
    "data that is not learnt from": (
        train,
        "--offline.data x",
        "offline.data is 'x'; with setting 'online' it must be ",
    ),
    "a table without data": (table, "--setting offline", "data is not set; with setting 'offline' it must be a folder"),
    "a table of data online": (table, "--data x", "data is 'x'; with setting 'online' it must be left out"),
    "no row": (
        table,
        "--setting offline --data x --methods borl",
        "methods has 'borl'; did you mean 'borel'? allowed: dynamite, ",
    ),
    "uneven shards": (collect, "--out x --episodes 100", "episodes is 100; it must be a multiple of shard, 64"),
    "no episodes": (collect, "--out x --episodes 0", "episodes is 0; it must be 1 or more"),
    "nobody plays": (collect, "--out x --policy", "policy is empty; name one policy or more, as in random"),
    "no run plays": (
        collect,
        "--out x --policy expert:y",
        "run is 'y'; it must be a run folder, one with a config.json",
    ),
    "nowhere to play": (collect, "--out x --env gridwrld", "env is 'gridwrld'; did you mean 'gridworld'?"),
    "no root": (collect, "--out x --seed -1", "seed is -1; it must be 0 to 2^32 - 1"),
    "no plugin": (train, "--plugin nowhere", "plugin is 'nowhere'; it must be a module that can be imported from here"),
    "a race that ends at once": (tune, "--keep 0", "keep is 0.0; it must be above 0 and at most 1"),
    "no repeats": (bench, "--repeats 0", "repeats is 0; it must be 1 or more"),
    "a table of nothing": (table, "--steps 0", "steps is 0; it must be 1 or more"),
    "ablations of nobody": (ablations, "--seeds 0", "seeds is 0; it must be 1 or more"),
    "the last of several": (sweep_p, "--p 0.1 2", "p of gridworld is 2.0; it must be a probability, 0 to 1"),
}
OPTIONS = {
    "no probability": ("gridworld", "p=2", "p of gridworld is 2; it must be a probability, 0 to 1"),
    "no value": ("gridworld", "p", "env_options is 'p'; it must be name=value with a JSON value, such as p=0.1"),
    "misspelt": ("gridworld", "swp=0.5", "gridworld has no option 'swp'; did you mean 'swap'? allowed: swap, p, hor"),
    "of another": ("halfcheetah_vel", "cells=5", "halfcheetah_vel has no option 'cells'; allowed: iid, p, horizon, "),
    "no steps": ("gridworld", "horizon=0", "horizon of gridworld is 0; it must be a whole number of at least 1"),
    "no room": ("gridworld", "cells=1", "cells is 1; it must be a whole number of at least 2"),
    "too large": ("gridworld", "active_reward=1e39", "active_reward of gridworld is 1e+39; it must be finite"),
    "one goal": ("point_robot", "goals=1", "goals is 1; it must be a whole number of at least 2"),
    "set elsewhere": ("halfcheetah_vel", 'impl="c"', "env_options sets impl to 'c'; it is set by physics.impl"),
    "not finite": ("reacher", "p=NaN", "p of reacher is nan; it must be finite"),
}
SHAPES = {
    "a row short": (
        "--env-options kernel=[[0.5,0.5]]",
        "kernel of gridworld is [[0.5, 0.5]]; it must be 2 probabilities ",
    ),
    "no distribution": (
        "--env-options kernel=[[0.5,0.6],[0.5,0.5]]",
        "0.6], [0.5, 0.5]]; it must be 2 probabilities that ",
    ),
    "one too many": (
        "--env-options initial=[0.2,0.3,0.5]",
        "initial of gridworld is [0.2, 0.3, 0.5]; it must be 2 prob",
    ),
    "a number": ("--env-options initial=0.5", "initial of gridworld is 0.5; it must be a list of numbers"),
    "a list": ("--env-options active_reward=[1,2]", "active_reward of gridworld is [1, 2]; it must be a number"),
    "an empty layer": (
        "--network.policy-hidden 8 0",
        "network.policy_hidden is (8, 0); it must be a list of sizes of 1 o",
    ),
    "no latent": ("--network.latent 0", "network.latent is 0; it must be 1 or more"),
    "uneven episodes": ("--num-envs 1000", "num_envs is 1000; it must be a multiple of ppo.minibatches, 32"),
    "a share of no environment": ("--share-envs 0", "share_envs is 0; it must be from 1 to "),
    "uneven trajectories": (
        "--vae.trajectories 5000",
        "vae.trajectories is 5000; it must be a multiple of vae.minibatches",
    ),
    "longer than an episode": ("--vae.elbo-terms 61", "vae.elbo_terms is 61; it must be at most the horizon, 60"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run; two of its checkpoints are kept."""
    out = tmp_path_factory.mktemp("finished") / "run"
    training.train(tiny_config("probe_match", "markov"), out)
    return out


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "run")


def named(table: dict) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", table.values(), ids=table)


@named(FLAGS)
def test_flags(refused, case):
    command, flags, said = case
    assert said in refused(command, *flags.split())


@named(OPTIONS)
def test_environment_options(refused, case):
    env, option, said = case
    assert said in refused(train, "--env", env, "--env-options", option)


@named(SHAPES)
def test_shapes(refused, case):
    flags, said = case
    assert said in refused(train, *flags.split())


def test_shapes_of_a_policy_that_is_not_the_configs(refused, run):
    path = run / "config.json"
    path.write_text(path.read_text().replace('"policy_hidden": [\n      8\n    ]', '"policy_hidden": [16]'))
    said = "policy_params.params.policy.Dense_0.bias is float32[2, 8] instead of float32[2, 16]"
    assert said in refused(evaluate, "--run", run)


def replaced(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


CONFIGS = {
    "cut": (lambda text: text[: len(text) // 2], "config.json is not JSON: cut short or edited"),
    "empty": (lambda text: "", "config.json is not JSON: cut short or edited"),
    "no object": (lambda text: "[]", "config.json holds no config; it must be a JSON object"),
    "later": (
        replaced(f'"schema": {SCHEMA}', '"schema": 99'),
        f"schema is 99; this version of dynamite_jax reads 0 to {SCHEMA}",
    ),
    "unknown field": (replaced('"seeds"', '"sedes"'), "config.json: fields of the config are unknown: sedes"),
    "another type": (replaced('"seeds": 2', '"seeds": "two"'), "seeds is 'two'; it must be of type int"),
    "too small": (replaced('"seeds": 2', '"seeds": -2'), "seeds is -2; it must be 1 or more"),
    "no environment": (
        replaced("probe_match", "probe_mach"),
        "env is 'probe_mach'; did you mean 'probe_match'? allowed: ",
    ),
    "no method": (replaced('"markov"', '"markow"'), f"method is 'markow'; did you mean 'markov'? {METHODS}"),
    "no section": (replaced('"ppo": {', '"ppo": 3, "pp": {'), "config.json: fields of the config are unknown: pp, ppo"),
}


@named(CONFIGS)
@pytest.mark.parametrize("command", [evaluate, train], ids=["eval", "train"])
def test_config_files(refused, run, case, command):
    change, said = case
    path = run / "config.json"
    path.write_text(change(path.read_text()))
    assert said in refused(command, *(["--run", run] if command is evaluate else ["--out", run, "--resume"]))


def written(name: str, text: str) -> Callable[[Path], None]:
    def damage(step: Path) -> None:
        (step / name).write_text(text)

    return damage


def emptied(step: Path) -> None:
    shutil.rmtree(step)
    step.mkdir()


def linked(step: Path) -> None:
    (step / "state" / "link").symlink_to("/etc")


CHECKPOINTS = {
    "no state": (lambda step: shutil.rmtree(step / "state"), "is damaged: it can't be read"),
    "no digests": (lambda step: shutil.rmtree(step / "digests"), "is damaged: it can't be read"),
    "digests cut": (lambda step: cut(step / "digests" / "metadata"), "is damaged: it can't be read"),
    "digests of nothing": (
        written("digests/metadata", "{}"),
        "is damaged: its arrays are not those of its digests, see ",
    ),
    "a byte": (lambda step: flip(largest(step / "state")), "is damaged: "),
    "empty": (emptied, "is damaged: it can't be read"),
    "a link": (linked, "is damaged: state/link in it is a symbolic link"),
    "later": (
        written("about/metadata", '{"schema": 99}'),
        f"its schema is 99; this version of dynamite_jax reads 0 to {SCHEMA}",
    ),
    "earlier": (
        written("about/metadata", '{"schema": 3}'),
        "an earlier version wrote it; its run can be evaluated and",
    ),
}


@named(CHECKPOINTS)
def test_checkpoints(refused, run, case):
    damage, said = case
    (run / "summary.json").unlink()
    steps = sorted(run.glob("checkpoints/*"))
    assert len(steps) == 2
    for step in steps:
        damage(step)
    line = refused(train, "--out", run, "--resume")
    assert line.startswith(f"checkpoint {steps[-1]}") and said in line
    assert ("; no older valid one is left" in line) == ("is damaged" in line)


PATHS = {
    "a file": (
        train,
        "--out file",
        "out is 'file', which is already used; name a new folder, or add --resume to go on",
    ),
    "below a file": (train, "--out file/run", "out is 'file/run', which can't be written: Not a directory"),
    "used": (train, "--out used", "out is 'used', which is already used; name a new folder, or add --resume to go on"),
    "a run": (train, "--out run", "out is 'run', which is already used; name a new folder, or add --resume to go on"),
    "a bucket": (train, "--out gs://b/run", "out is 'gs:/b/run'; it must be a folder of a file system, so mount the"),
    "too long": (train, f"--out {'x' * 300}", "xxx', which can't be written: File name too long"),
    "none to resume": (train, "--resume", "out is not set; to resume it must be a run folder"),
    "no run to resume": (
        train,
        "--resume --out used",
        "out is 'used'; to resume it must be a run folder, one with a conf",
    ),
    "another run": (train, "--resume --out run --num-envs 16", "has another config; num_envs: 8 -> 16"),
    "no root": (evaluate, "--run run --seed 4294967296", "seed is 4294967296; it must be 0 to 2^32 - 1"),
    "no episode": (beliefs, "--run run --episode=-1", "episode is -1; it must be 0 to 2^32 - 1"),
    "no agent": (beliefs, "--run run --seed 7", "seed is 7; run has agents from 0 to "),
    "no picture": (beliefs, "--run run --out used/a.doc", "out is 'used/a.doc'; its name must end in ."),
    "no video": (video, "--runs run --out a.avi", "out is 'a.avi'; its name must end in .gif or .mp4"),
    "no folder of a video": (video, "--runs run --out new/a.gif", "out is 'new/a.gif'; 'new' must be a folder"),
    "no runs": (report, "--runs", "runs are none; name one run folder or more"),
    "no report": (report, "--runs run --out used", "out is 'used'; its name must end in .html"),
    "no run": (evaluate, "--run nothing", "run is 'nothing'; it must be a run folder, one with a config.json"),
    "no run to plot": (plot, "--runs used", "runs: 'used' is no run folder; it must hold a config.json"),
    "no run to export": (export, "--run file", "run is 'file'; it must be a run folder, one with a config.json"),
}


@named(PATHS)
def test_paths(refused, run, tmp_path, case):
    command, flags, said = case
    (tmp_path / "file").write_text("notes")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("notes")
    assert said in refused(command, *flags.split())
