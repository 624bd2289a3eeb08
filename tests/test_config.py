"""Configs: what is refused, and the way to JSON and back."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.config import Config, ConfigError, PPOConfig, VAEConfig
from dynamite_jax.methods import METHODS
from envs import registry

NAN, INF = float("nan"), float("inf")
BASE = Config(num_envs=1024, chunk=10, steps=20_000_000, vae=VAEConfig(minibatches=8), ppo=PPOConfig(minibatches=16))
PRESETS = [(env, method) for env in sorted(registry.MAKERS) for method in sorted(METHODS)]


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every field that is not a section, by its dotted name."""
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        nested = dataclasses.is_dataclass(value)
        found |= flat(value, f"{prefix}{field.name}.") if nested else {prefix + field.name: value}
    return found


def change(config: Any, **values: Any) -> Any:
    """A config with other values; the dots of names written as double underscores."""
    for name, value in values.items():
        section, _, rest = name.partition("__")
        value = change(getattr(config, section), **{rest: value}) if rest else value
        config = dataclasses.replace(config, **{section: value})
    return config


def with_value(name: str, value: Any) -> Config:
    return change(BASE, **{name.replace(".", "__"): value})


def refusal(config: Config) -> str:
    with pytest.raises(ConfigError) as caught:
        configs.check(config)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


FIELDS = flat(BASE)
FLOATS = [name for name, value in FIELDS.items() if type(value) is float]
INTS = [name for name, value in FIELDS.items() if type(value) is int]
BOOLS = [name for name, value in FIELDS.items() if type(value) is bool]
STRINGS = [name for name, value in FIELDS.items() if type(value) is str]
TUPLES = [name for name, value in FIELDS.items() if type(value) is tuple]
FRACTIONS = ["ppo.anneal", "ppo.gamma", "ppo.gae_lambda"]
COUNTS = [
    *("steps", "seeds", "num_envs", "chunk", "eval_episodes", "checkpoint_every"),
    *("network.latent", "network.hidden", "network.embedding"),
    *("vae.epochs", "vae.minibatches", "ppo.epochs", "ppo.minibatches"),
]
POSITIVE = [
    "network.feature_clip",
    "network.action_deviation",
    "vae.lr",
    "vae.max_grad_norm",
    "ppo.lr",
    "ppo.clip",
    "ppo.max_grad_norm",
]
WEIGHTS = [
    *("vae.reward_weight", "vae.state_weight", "vae.kl_weight", "vae.consistency_weight", "vae.boundary_weight"),
    *("ppo.entropy", "ppo.value_weight"),
]
OPTIONAL = ["vae.trajectories", "vae.elbo_terms", "vae.decode_terms", "vae.buffer_episodes", "seed"]


def test_the_default_config_can_run():
    configs.check(Config())
    configs.check_against_horizon(Config(), 60)


@pytest.mark.parametrize("scale", ["cores", "accelerator"])
@pytest.mark.parametrize(("env", "method"), PRESETS)
def test_every_preset_can_run(env, method, scale):
    config = presets.default(env, method, scale)
    assert (config.env, config.method) == (env, method)
    assert (config.steps == 10**8 and 2**11 <= config.num_envs <= 2**14) == (scale == "accelerator")
    configs.check(config)
    configs.check_against_horizon(config, registry.make(env).horizon)


@pytest.mark.parametrize(("env", "method"), PRESETS)
def test_every_preset_survives_json(tmp_path, env, method):
    config = presets.default(env, method)
    configs.save(config, tmp_path / "config.json")
    loaded = configs.load(tmp_path / "config.json")
    assert loaded == config
    assert repr(loaded) == repr(config)  # types too: a tuple is no list, a real number no whole one


def test_every_field_survives_json(tmp_path):
    config = change(
        BASE,
        env_options=("p=0.1", "kernel=[[0.5, 0.5], [0.5, 0.5]]"),
        seed=2**32 - 1,
        network__policy_hidden=(),
        network__activation="relu",
        vae__boundaries="predicted",
        vae__conditioning=False,
        ppo__lr=1e-05,
    )
    configs.save(config, tmp_path / "config.json")
    assert configs.load(tmp_path / "config.json") == config


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
        configs.check(with_value(name, choice))


@pytest.mark.parametrize("name", [name for name in TUPLES if name.startswith("network.")])
@pytest.mark.parametrize("value", [(0,), (64, -1), (1.5,), ("a",), (True,), 64, [64], "64", None])
def test_layers_must_be_sizes(name, value):
    message = refusal(with_value(name, value))
    assert message.startswith(f"{name} is {value!r}; it must be a list of")
    configs.check(with_value(name, ()))
    configs.check(with_value(name, (1,)))


@pytest.mark.parametrize("value", [("p=0.1", 3), "p=0.1", None])
def test_environment_options_must_be_a_list_of_text(value):
    assert f"env_options is {value!r}; it must be a list of str" == refusal(with_value("env_options", value))


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_is_one_or_more(name):
    assert refusal(with_value(name, 0)) == f"{name} is 0; it must be 1 or more"


@pytest.mark.parametrize("name", POSITIVE)
def test_a_rate_or_norm_is_above_zero(name):
    assert refusal(with_value(name, 0.0)) == f"{name} is 0.0; it must be > 0"
    configs.check(with_value(name, 1e-9))


@pytest.mark.parametrize("name", [*WEIGHTS, *FRACTIONS, *OPTIONAL])
def test_what_may_be_switched_off_may_be_zero(name):
    configs.check(with_value(name, 0 if name in OPTIONAL else 0.0))


@pytest.mark.parametrize("name", FRACTIONS)
def test_a_fraction_is_at_most_one(name):
    assert refusal(with_value(name, 1.01)) == f"{name} is 1.01; it must be between 0 and 1"
    configs.check(with_value(name, 1.0))
    configs.check(with_value(name, 1))  # a whole number is a real one


def test_a_seed_fits_32_bits():
    configs.check(with_value("seed", 2**32 - 1))
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
    configs.check(change(BASE, **values))


def test_a_run_must_hold_one_meta_update():
    config = change(BASE, steps=1024 * 60)
    configs.check_against_horizon(config, 60)
    with pytest.raises(ConfigError) as caught:
        configs.check_against_horizon(config, 61)
    assert "steps is 61440" in str(caught.value) and str(1024 * 61) in str(caught.value)


def test_the_objective_has_at_most_as_many_terms_as_steps():
    configs.check_against_horizon(with_value("vae.elbo_terms", 60), 60)
    with pytest.raises(ConfigError, match="vae.elbo_terms is 61; it must be at most the horizon, 60"):
        configs.check_against_horizon(with_value("vae.elbo_terms", 61), 60)


@pytest.mark.parametrize(
    ("steps", "expected"), [(1, 10), (10 * 1024 * 60, 10), (10 * 1024 * 60 + 1, 20), (20_000_000, 330)]
)
def test_meta_updates_are_whole_chunks_that_reach_the_steps(steps, expected):
    assert change(BASE, steps=steps).meta_updates(60) == expected


def test_environment_options_are_read_as_json():
    config = with_value("env_options", ("p=0.1", "horizon=7", "kernel=[[1, 0], [0, 1]]", "iid=true"))
    assert configs.env_options(config) == {"p": 0.1, "horizon": 7, "kernel": [[1, 0], [0, 1]], "iid": True}
    assert configs.env_options(BASE) == {}


@pytest.mark.parametrize("num_envs, eval_episodes, at_once", [(64, 100, 192), (32, 100, 100)])
def test_warp_is_told_how_many_environments_step_at_once(num_envs, eval_episodes, at_once):
    config = change(BASE, seeds=3, num_envs=num_envs, eval_episodes=eval_episodes, physics__impl="warp")
    assert configs.env_options(config) == {"impl": "warp", "worlds": at_once}


def test_the_implementation_of_physics_is_no_environment_option():
    for entry, said in (('impl="warp"', "impl to 'warp'"), ("worlds=3", "worlds to 3")):
        with pytest.raises(ConfigError, match=f"env_options sets {said}; it is set by physics.impl"):
            configs.env_options(with_value("env_options", (entry,)))


@pytest.mark.parametrize("entry", ["p", "p=", "=0.1", "p=a", "p=[0.1", "", "p:0.1"])
def test_an_environment_option_must_be_name_and_value(entry):
    with pytest.raises(ConfigError) as caught:
        configs.env_options(with_value("env_options", ("horizon=7", entry)))
    assert f"env_options is {entry!r}; it must be name=value" in str(caught.value)


# -- files -------------------------------------------------------------------------------------------------------


def saved(tmp_path: Path) -> tuple[Path, Any]:
    configs.save(presets.default("gridworld", "dynamite"), tmp_path / "config.json")
    return tmp_path / "config.json", json.loads((tmp_path / "config.json").read_text())


def unreadable(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        configs.load(path)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_file_cut_short_is_refused(tmp_path, kept):
    path, _ = saved(tmp_path)
    text = path.read_text().rstrip()
    path.write_text(text[: int(kept * len(text))])
    message = unreadable(path)
    assert str(path) in message and "not JSON" in message


@pytest.mark.parametrize("text", [b"\xff\xfe\x00", b"seeds: 4", b"{'env': 'gridworld'}"])
def test_a_file_that_is_not_json_is_refused(tmp_path, text):
    path, _ = saved(tmp_path)
    path.write_bytes(text)
    assert str(path) in unreadable(path)


@pytest.mark.parametrize("data", [[], 3, None, "gridworld", {}, [{"env": "gridworld"}]])
def test_json_that_is_no_config_is_refused(tmp_path, data):
    path, _ = saved(tmp_path)
    path.write_text(json.dumps(data))
    assert str(path) in unreadable(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert str(tmp_path / "none.json") in unreadable(tmp_path / "none.json")
    assert str(tmp_path) in unreadable(tmp_path)


@pytest.mark.parametrize("section", [None, "network", "vae", "ppo"])
def test_unknown_and_missing_fields_are_named(tmp_path, section):
    path, data = saved(tmp_path)
    inner = data[section] if section else data
    inner["colour"] = 3
    path.write_text(json.dumps(data))
    assert str(path) in unreadable(path) and "colour" in unreadable(path)
    del inner["colour"]
    missing = next(iter(inner))
    del inner[missing]
    path.write_text(json.dumps(data))
    assert missing in unreadable(path)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        (None, "seeds", "4"),
        (None, "seeds", 4.0),
        (None, "env", ["gridworld"]),
        (None, "env_options", [1]),
        (None, "env_options", "p=1"),
        ("network", "latent", None),
        ("network", "policy_hidden", 128),
        ("network", "policy_hidden", [128, "128"]),
        ("vae", "lr", "0.001"),
        ("vae", "session_mask", 1),
        ("vae", "kl_target", "other"),
        ("vae", "kl_target", ["latent_dynamics"]),
        ("ppo", "gamma", {}),
        ("ppo", "epochs", True),
        ("ppo", "gamma", 1.5),
        ("ppo", "lr", NAN),
        ("ppo", "minibatches", 0),
    ],
)
def test_edited_values_are_refused_by_name(tmp_path, section, field, value):
    path, data = saved(tmp_path)
    (data[section] if section else data)[field] = value
    path.write_text(json.dumps(data))
    assert (f"{section}.{field} is" if section else f"{field} is") in unreadable(path)


@pytest.mark.parametrize("section", ["network", "vae", "ppo"])
@pytest.mark.parametrize("value", [None, 3, [], "default"])
def test_a_section_must_be_one(tmp_path, section, value):
    path, data = saved(tmp_path)
    data[section] = value
    path.write_text(json.dumps(data))
    assert str(path) in unreadable(path)


# -- differences -------------------------------------------------------------------------------------------------


def test_a_config_does_not_differ_from_itself():
    assert configs.differences(BASE, BASE) == []


@pytest.mark.parametrize("name", FIELDS)
def test_a_difference_in_any_field_is_named(name):
    assert configs.differences(BASE, with_value(name, "other")) == [f"{name}: {FIELDS[name]!r} -> 'other'"]


def test_all_differences_are_named_old_before_new():
    old = change(BASE, steps=4, network__policy_hidden=(16,), ppo__lr=0.1)
    new = change(BASE, steps=5, network__policy_hidden=(8,), ppo__lr=0.5)
    assert configs.differences(old, new) == [
        "steps: 4 -> 5",
        "network.policy_hidden: (16,) -> (8,)",
        "ppo.lr: 0.1 -> 0.5",
    ]


def test_heads_divide_the_width_of_a_token():
    config = presets.default("gridworld", "dynamite")
    wide = dataclasses.replace(config, network=dataclasses.replace(config.network, encoder="transformer", heads=3))
    with pytest.raises(ConfigError, match="network.hidden is 64; it must be a multiple of network.heads, 3"):
        configs.check(wide)


@pytest.mark.parametrize("method", METHODS)
def test_only_a_latent_of_the_episode_can_be_read_by_attention(method):
    config = presets.default("gridworld", method)
    config = dataclasses.replace(config, network=dataclasses.replace(config.network, encoder="transformer"))
    if method in ("dynamite", "varibad"):
        presets.check(config)
    else:
        with pytest.raises(ConfigError, match=f"network.encoder is 'transformer'; with method {method} it must be"):
            presets.check(config)


@pytest.mark.parametrize(("env", "said"), [("gridworld", "in gridworld it must be 'jax'"), ("reacher", "it needs ")])
def test_physics_that_can_not_run_is_refused(env, said):
    presets.check(change(BASE, env=env))
    with pytest.raises(ConfigError, match=f"^physics.impl is 'warp'; {said}"):
        presets.check(change(BASE, env=env, physics__impl="warp"))
