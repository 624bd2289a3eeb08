"""Configs: values that are refused, alone and beside each other; files are in test_config_files.py."""

import dataclasses
import multiprocessing
from typing import Any

import numpy as np
import pytest

from dynamite_envs import reacher, registry
from dynamite_envs.errors import UserError
from dynamite_envs.physics import backend
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.config import Config, ConfigError
from settings import BASE, FIELDS, change, refusal, with_value

NAN, INF = float("nan"), float("inf")
FLOATS = [name for name, value in FIELDS.items() if type(value) is float]
INTS = [name for name, value in FIELDS.items() if type(value) is int]
BOOLS = [name for name, value in FIELDS.items() if type(value) is bool]
STRINGS = [name for name, value in FIELDS.items() if type(value) is str]
TUPLES = [name for name, value in FIELDS.items() if type(value) is tuple]
FRACTIONS = ["ppo.anneal", "ppo.gamma", "ppo.gamma_start", "ppo.gamma_rise", "ppo.gae_lambda"]
COUNTS = [
    *("steps", "seeds", "num_envs", "chunk", "eval_episodes", "checkpoint_every"),
    *("network.latent", "network.hidden", "network.embedding"),
    *("vae.epochs", "vae.minibatches", "ppo.epochs", "ppo.minibatches"),
]
POSITIVE = [
    "network.feature_clip",
    "network.action_deviation",
    "network.min_action_deviation",
    "vae.lr",
    "vae.max_grad_norm",
    "ppo.lr",
    "ppo.clip",
    "ppo.max_grad_norm",
    "ppo.min_return_deviation",
]
WEIGHTS = [
    *("vae.reward_weight", "vae.state_weight", "vae.kl_weight", "vae.consistency_weight", "vae.boundary_weight"),
    *("ppo.entropy", "ppo.value_weight"),
]
OPTIONAL = ["vae.trajectories", "vae.elbo_terms", "vae.decode_terms", "vae.buffer_episodes", "seed"]


def test_the_default_config_can_run():
    assert configs.validate(Config()).horizon == 60


# -- single values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FLOATS, *INTS])
def test_no_number_may_be_negative(name):
    message = refusal(with_value(name, -1 if name in INTS else -1.0))
    assert message.startswith(f"{name} is -1") and "must be" in message


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [NAN, INF, -INF, "0.1", None, True, (0.1,)])
def test_a_real_number_must_be_finite(name, value):
    assert f"{name} is {value!r}; it must be a finite number" == refusal(with_value(name, value))


@pytest.mark.parametrize("name", INTS)
@pytest.mark.parametrize("value", [1.0, NAN, "8", None, True])
def test_a_whole_number_must_be_one(name, value):
    assert f"{name} is {value!r}; it must be of type int" == refusal(with_value(name, value))


@pytest.mark.parametrize("name", BOOLS)
@pytest.mark.parametrize("value", [1, 0.0, "true", None])
def test_a_switch_must_be_true_or_false(name, value):
    assert f"{name} is {value!r}; it must be of type bool" == refusal(with_value(name, value))


@pytest.mark.parametrize("name", STRINGS)
@pytest.mark.parametrize("value", [3, None, True])
def test_a_name_must_be_text(name, value):
    message = refusal(with_value(name, value))
    assert f"{name} is {value!r}; it must be" in message


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("vae.kl_target", ["latent_dynamics", "previous_belief"]),
        ("vae.boundaries", ["labels", "predicted"]),
        ("vae.boundary_alignment", ["evidence", "action"]),
        ("network.activation", ["tanh", "relu", "silu"]),
    ],
)
def test_a_choice_must_be_one_of_those_there_are(name, choices):
    assert f"{name} is 'other'; it must be one of {', '.join(choices)}" == refusal(with_value(name, "other"))
    for choice in choices:
        configs.validate(with_value(name, choice))


@pytest.mark.parametrize("name", [name for name in TUPLES if name.startswith("network.")])
@pytest.mark.parametrize("value", [(0,), (64, -1), (1.5,), ("a",), (True,), 64, [64], "64", None])
def test_layers_must_be_sizes(name, value):
    message = refusal(with_value(name, value))
    assert message.startswith(f"{name} is {value!r}; it must be a list of")
    configs.validate(with_value(name, ()))
    configs.validate(with_value(name, (1,)))


@pytest.mark.parametrize("value", [("p=0.1", 3), "p=0.1", None])
def test_environment_options_must_be_named(value):
    message = refusal(with_value("env_options", value))
    assert message == f"env_options is {value!r}; it must be options by name, as in {{'p': 0.1}}"


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_is_one_or_more(name):
    assert refusal(with_value(name, 0)) == f"{name} is 0; it must be 1 or more"


@pytest.mark.parametrize("name", POSITIVE)
def test_a_rate_or_norm_is_above_zero(name):
    assert refusal(with_value(name, 0.0)) == f"{name} is 0.0; it must be > 0"
    configs.validate(with_value(name, 1e-9))


@pytest.mark.parametrize("name", [*WEIGHTS, *FRACTIONS, *OPTIONAL])
def test_what_may_be_switched_off_may_be_zero(name):
    configs.validate(with_value(name, 0 if name in OPTIONAL else 0.0))


@pytest.mark.parametrize("name", FRACTIONS)
def test_a_fraction_is_at_most_one(name):
    assert refusal(with_value(name, 1.01)) == f"{name} is 1.01; it must be between 0 and 1"
    configs.validate(with_value(name, 1.0))
    configs.validate(with_value(name, 1))  # a whole number is a real one


def test_a_seed_fits_32_bits():
    configs.validate(with_value("seed", 2**32 - 1))
    assert refusal(with_value("seed", 2**32)).startswith(f"seed is {2**32}; it must be 0 to 2^32 - 1")


# -- values that must fit each other -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"num_envs": 1000}, ["num_envs is 1000", "multiple of ppo.minibatches, 16"]),
        ({"ppo__minibatches": 7}, ["num_envs is 1024", "multiple of ppo.minibatches, 7"]),
        ({"num_envs": 8}, ["num_envs is 8", "multiple of ppo.minibatches, 16"]),
        ({"vae__minibatches": 3}, ["num_envs is 1024", "multiple of vae.minibatches, 3"]),
        ({"vae__trajectories": 100}, ["vae.trajectories is 100", "multiple of vae.minibatches, 8"]),
        ({"vae__trajectories": 4}, ["vae.trajectories is 4", "multiple of vae.minibatches, 8"]),
        ({"vae__trajectories": 2048}, ["vae.trajectories is 2048", "at most num_envs, 1024"]),
        ({"vae__buffer_episodes": 512}, ["vae.buffer_episodes is 512", "0 or at least num_envs, 1024"]),
        ({"vae__boundaries": "predicted", "vae__boundary_head": False}, ["vae.boundaries is 'predicted'", "'labels'"]),
        ({"vae__reset_at_boundary": True, "vae__boundary_head": False}, ["vae.reset_at_boundary is True", "be False"]),
        (
            {"vae__reset_at_boundary": True, "network__encoder": "transformer"},
            ["vae.reset_at_boundary is True", "network.encoder 'transformer'"],
        ),
        ({"ppo__through_encoder": True, "ppo__shuffle": "steps"}, ["ppo.shuffle is 'steps'", "'episodes'"]),
        ({"ppo__through_encoder": True, "vae__average_rate": 0.5}, ["vae.average_rate is 0.5", "it must be 1"]),
        ({"vae__average_rate": 0.0}, ["vae.average_rate is 0.0", "above 0 and at most 1"]),
        ({"vae__average_rate": 1.5}, ["vae.average_rate is 1.5", "above 0 and at most 1"]),
    ],
)
def test_sizes_that_do_not_fit_are_refused(values, named):
    message = refusal(change(BASE, **values))
    assert all(words in message for words in named)


@pytest.mark.parametrize(
    "values",
    [
        {"num_envs": 512},
        {"num_envs": 16, "vae__minibatches": 16},
        {"vae__trajectories": 512},
        {"vae__trajectories": 1024},
        {"vae__buffer_episodes": 1024},
        {"vae__trajectories": 2048, "vae__buffer_episodes": 4096},
    ],
)
def test_sizes_that_fit_are_taken(values):
    configs.validate(change(BASE, **values))


def test_a_discount_that_rises_starts_below_where_it_ends():
    start = configs.changed(BASE, {"ppo.gamma": 0.6, "ppo.gamma_start": 0.7})
    configs.validate(start)
    with pytest.raises(ConfigError, match=r"ppo.gamma_start is 0.7; it must be at most ppo.gamma, 0.6, to rise"):
        configs.validate(configs.changed(start, {"ppo.gamma_rise": 0.5}))


def test_a_run_must_hold_one_meta_update():
    config = change(BASE, steps=1024 * 60)
    configs.validate(config)
    with pytest.raises(ConfigError) as caught:
        configs.validate(change(config, env_options={"horizon": 61}))
    assert "steps is 61440" in str(caught.value) and str(1024 * 61) in str(caught.value)


def test_the_objective_has_at_most_as_many_terms_as_steps():
    configs.validate(with_value("vae.elbo_terms", 60))
    assert refusal(with_value("vae.elbo_terms", 61)) == "vae.elbo_terms is 61; it must be at most the horizon, 60"


@pytest.mark.parametrize(
    ("steps", "expected"), [(1, 10), (10 * 1024 * 60, 10), (10 * 1024 * 60 + 1, 20), (20_000_000, 330)]
)
def test_meta_updates_are_whole_chunks_that_reach_the_steps(steps, expected):
    assert change(BASE, steps=steps).meta_updates(60) == expected


def test_a_valid_config_gives_its_environment():
    env = configs.validate(with_value("env_options", {"p": 0.25, "horizon": 7}))
    assert (type(env).__name__, float(env.p), env.horizon) == ("Gridworld", 0.25, 7)


def test_an_option_that_the_environment_refuses_is_bad_input():
    with pytest.raises(UserError, match="p of gridworld is 2; it must be a probability"):
        configs.validate(with_value("env_options", {"p": 2}))


def test_environment_options_are_read_as_json():
    options = configs.parse_options(("p=0.1", "horizon=7", "kernel=[[1, 0], [0, 1]]", "iid=true", 'name="a=b"'))
    assert options == {"p": 0.1, "horizon": 7, "kernel": [[1, 0], [0, 1]], "iid": True, "name": "a=b"}
    assert configs.parse_options(()) == BASE.env_options == {}


@pytest.mark.parametrize("num_envs, eval_episodes, at_once", [(64, 100, 192), (32, 100, 100)])
def test_warp_is_told_how_many_environments_step_at_once(num_envs, eval_episodes, at_once, monkeypatch):
    calls = []
    monkeypatch.setattr(backend, "check_implementation", lambda impl: None)  # which needs an NVIDIA GPU
    monkeypatch.setattr(registry, "make", lambda name, **options: calls.append(options) or reacher.make())
    values = {"env_options": {"p": 0.1}, "seeds": 3, "num_envs": num_envs, "eval_episodes": eval_episodes}
    configs.validate(change(BASE, env="reacher", physics__impl="warp", **values))
    assert calls == [{"p": 0.1, "impl": "warp", "worlds": at_once}]


def test_the_implementation_of_physics_is_no_environment_option():
    for name, value, cause in (("impl", "warp", "impl to 'warp'"), ("worlds", 3, "worlds to 3")):
        message = refusal(with_value("env_options", {name: value}))
        assert message == f"env_options sets {cause}; it is set by physics.impl"


@pytest.mark.parametrize("entry", ["p", "p=", "=0.1", "p=a", "p=[0.1", "", "p:0.1"])
def test_an_environment_option_must_be_name_and_value(entry):
    with pytest.raises(ConfigError) as caught:
        configs.parse_options(("horizon=7", entry))
    assert f"env_options is {entry!r}; it must be name=value" in str(caught.value)


# -- options in a frozen config ----------------------------------------------------------------------------------


def test_configs_are_equal_and_hashed_by_what_their_options_say():
    one, same = (with_value("env_options", {"p": p, "kernel": [[1, 0], [0, 1]]}) for p in (1, 1.0))
    assert one == same and hash(one) == hash(same) and len({one, same}) == 1
    assert one != with_value("env_options", {"p": 0.5, "kernel": [[1, 0], [0, 1]]})


def test_options_are_those_of_json_whatever_they_were_made_from():
    mine = {"wind": (0.5, 2), "p": 0.1}
    config = with_value("env_options", mine)
    mine["p"] = 0.9
    assert config.env_options == {"wind": [0.5, 2], "p": 0.1}
    with pytest.raises(ConfigError, match="env_options is .*; its values must be those of JSON"):
        with_value("env_options", {"p": np.zeros(2)})


def test_options_of_a_config_can_not_be_changed():
    config = with_value("env_options", {"p": 0.1})
    options: Any = config.env_options
    for change_it in (
        lambda: options.update(p=0.2),
        lambda: options.setdefault("q", 1),
        lambda: options.__setitem__("p", 0.2),
        lambda: options.__delitem__("p"),
        lambda: options.__ior__({"p": 0.2}),
        lambda: options.pop("p"),
        options.popitem,
        options.clear,
    ):
        with pytest.raises(TypeError, match="can't be changed"):
            change_it()
    assert config.env_options == {"p": 0.1}
    assert dataclasses.replace(config, env_options={**options, "swap": 0.5}).env_options == {"p": 0.1, "swap": 0.5}


def test_a_config_reaches_another_process_as_it_is():
    config = with_value("env_options", {"p": 0.1, "kernel": [[1, 0], [0, 1]]})
    here, there = multiprocessing.Pipe()
    here.send(config)
    assert there.recv() == config


def test_heads_divide_the_width_of_a_token():
    config = presets.default("gridworld", "dynamite")
    wide = dataclasses.replace(config, network=dataclasses.replace(config.network, encoder="transformer", heads=3))
    with pytest.raises(ConfigError, match="network.hidden is 64; it must be a multiple of network.heads, 3"):
        configs.validate(wide)


def test_the_bounds_of_the_deviation_of_actions_are_in_order():
    for value in (0.0, 5e-4):
        config = change(BASE, network__max_action_deviation=value)
        allowed = "> 0" if value == 0.0 else "at least network.min_action_deviation, 0.001"
        assert refusal(config) == f"network.max_action_deviation is {value}; it must be {allowed}"
    configs.validate(change(BASE, network__max_action_deviation=1e-3))
