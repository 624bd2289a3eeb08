"""Arguments of `train` that are refused, in one line and before anything is compiled or written."""

import pytest

from dynamite_envs import registry
from dynamite_jax import presets
from dynamite_jax.commands import train
from dynamite_jax.methods import METHODS
from refusals import save_run

FITTING = ("--num-envs", "1024", "--ppo.minibatches", "16", "--vae.minibatches", "8", "--vae.trajectories", "0")


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
