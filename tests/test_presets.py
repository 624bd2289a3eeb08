"""Presets: that each can run, and what a method or an environment can not take."""

import dataclasses

import pytest

from dynamite_envs import registry
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.config import ConfigError
from dynamite_jax.methods import of_setting
from settings import BASE, change

PRESETS = [(env, method) for env in sorted(registry.MAKERS) for method in sorted(of_setting("online"))]


@pytest.mark.parametrize("scale", ["cores", "accelerator"])
@pytest.mark.parametrize(("env", "method"), PRESETS)
def test_every_preset_can_run(env, method, scale):
    config = presets.default(env, method, scale)
    assert (config.env, config.method) == (env, method)
    assert (config.steps == 10**8 and 2**11 <= config.num_envs <= 2**14) == (scale == "accelerator")
    configs.validate(config)


@pytest.mark.parametrize(("env", "method"), PRESETS)
def test_every_preset_survives_json(tmp_path, env, method):
    config = presets.default(env, method)
    configs.save(config, tmp_path / "config.json")
    loaded = configs.load(tmp_path / "config.json")
    assert loaded == config
    assert repr(loaded) == repr(config)  # types too: a tuple is no list, a real number no whole one


def test_a_probe_takes_fewer_steps_and_environments_than_the_gridworld():
    probe, gridworld = presets.default("probe_match", "dynamite"), presets.default("gridworld", "dynamite")
    assert probe.steps < gridworld.steps / 10
    assert probe.num_envs < gridworld.num_envs


def test_varibad_switches_the_session_aware_parts_off():
    vae = presets.default("gridworld", "varibad").vae
    assert (vae.session_mask, vae.conditioning, vae.consistency, vae.boundary_head) == (False,) * 4
    assert vae.kl_target == "previous_belief"
    full = presets.default("gridworld", "dynamite").vae
    assert full.session_mask and full.conditioning and full.consistency and full.boundary_head
    assert full.kl_target == "latent_dynamics"


@pytest.mark.parametrize(
    ("env", "method", "near"),
    [("gridwrld", "dynamite", "gridworld"), ("gridworld", "varibda", "varibad"), ("gridworld", "orcle", "oracle")],
)
def test_an_unknown_preset_is_answered_with_the_nearest_name(env, method, near):
    with pytest.raises(ConfigError, match=f"did you mean '{near}'"):
        presets.default(env, method)


@pytest.mark.parametrize("method", of_setting("online"))
def test_only_a_latent_of_the_episode_can_be_read_by_attention(method):
    config = presets.default("gridworld", method)
    config = dataclasses.replace(config, network=dataclasses.replace(config.network, encoder="transformer"))
    if method in ("dynamite", "varibad"):
        configs.validate(config)
    else:
        with pytest.raises(ConfigError, match=f"network.encoder is 'transformer'; with method {method} it must be"):
            configs.validate(config)


@pytest.mark.parametrize("method", of_setting("online"))
def test_the_loss_of_the_policy_goes_through_encoders_that_learn_by_a_loss_of_their_own_as_they_act(method):
    config = presets.default("gridworld", method)
    config = change(config, ppo__through_encoder=True, ppo__shuffle="episodes", vae__average_rate=1.0)
    if method in ("dynamite", "varibad", "contrabar", "task_inference"):
        configs.validate(config)
    else:
        with pytest.raises(ConfigError, match=f"ppo.through_encoder is True; with method {method} it must be False"):
            configs.validate(config)


@pytest.mark.parametrize(("env", "cause"), [("gridworld", "in gridworld it must be 'auto'"), ("reacher", "it needs ")])
def test_physics_that_can_not_run_is_refused(env, cause):
    configs.validate(change(BASE, env=env))
    with pytest.raises(ConfigError, match=f"^physics.impl is 'warp'; {cause}"):
        configs.validate(change(BASE, env=env, physics__impl="warp"))


# -- where a preset is from ---------------------------------------------------------------------------------------


def test_a_preset_that_was_not_tuned_is_built_in():
    assert presets.source(presets.default("probe_match", "dynamite")) == "built in"


def test_fields_that_are_no_longer_those_of_the_file_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "SHIPPED", tmp_path)
    (tmp_path / "gridworld_dynamite.json").write_text('{"changes": {"ppo.lr": 0.001, "ppo.clip": 0.3}, "trials": 5}')
    tuned = presets.default("gridworld", "dynamite")
    assert presets.source(tuned) == "dynamite_jax/tuned/gridworld_dynamite.json of the package"
    assert presets.source(change(tuned, ppo__lr=0.5, steps=10)) == f"{presets.source(tuned)}, but for ppo.lr"


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"changes": {"ppo.lrr": 1}, "trials": 3}', '{"changes": {"pop.lr": 1}, "trials": 3}']
)
def test_a_file_that_is_no_preset_is_refused_by_name(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tuned").mkdir(parents=True)
    (tmp_path / "runs" / "tuned" / "gridworld_dynamite.json").write_text(text)
    with pytest.raises(ConfigError, match=r"^preset runs/tuned/gridworld_dynamite.json holds no changes of a config"):
        presets.default("gridworld", "dynamite")
