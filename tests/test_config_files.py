"""Configs on disk: the way to JSON and back, what is refused, and how two differ."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.algorithms.meta_ppo import discount
from dynamite_jax.config import Config, ConfigError
from settings import BASE, FIELDS, change, with_value


def test_every_field_survives_json(tmp_path):
    config = change(
        BASE,
        env_options={"p": 0.1, "kernel": [[0.5, 0.5], [0.5, 0.5]]},
        seed=2**32 - 1,
        network__policy_hidden=(),
        network__activation="relu",
        vae__boundaries="predicted",
        vae__conditioning=False,
        ppo__lr=1e-05,
    )
    configs.save(config, tmp_path / "config.json")
    assert configs.load(tmp_path / "config.json") == config


def saved(tmp_path: Path) -> tuple[Path, Any]:
    configs.save(presets.default("gridworld", "dynamite"), tmp_path / "config.json")
    return tmp_path / "config.json", json.loads((tmp_path / "config.json").read_text())


def unreadable(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        configs.load(path)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_file_cut_short_is_refused(tmp_path, share):
    path, _ = saved(tmp_path)
    text = path.read_text().rstrip()
    path.write_text(text[: int(share * len(text))])
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
    missing = next(name for name in inner if name != "schema")
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
        ("ppo", "lr", float("nan")),
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


# -- files of other schemas -------------------------------------------------------------------------------------


def saved_at_0(tmp_path: Path) -> tuple[Path, Any]:
    path, data = saved(tmp_path)
    del data["schema"]
    data["env_options"] = ["p=0.5", "kernel=[[1, 0], [0, 1]]"]
    path.write_text(json.dumps(data))
    return path, data


def test_a_file_names_its_schema(tmp_path):
    _, data = saved(tmp_path)
    assert data["schema"] == configs.SCHEMA >= 1


def test_a_file_without_a_schema_may_list_its_options_as_text(tmp_path):
    path, data = saved_at_0(tmp_path)
    options = {"p": 0.5, "kernel": [[1, 0], [0, 1]]}
    assert configs.load(path) == change(presets.default("gridworld", "dynamite"), env_options=options)
    path.write_text(json.dumps(data | {"env_options": ["p"]}))
    assert "env_options is 'p'; it must be name=value" in unreadable(path)
    path.write_text(json.dumps(data | {"schema": 1}))
    assert "env_options is ['p=0.5', 'kernel=[[1, 0], [0, 1]]']; it must be options by name" in unreadable(path)


def test_a_field_that_came_later_takes_the_value_that_keeps_the_run_what_it_was(tmp_path):
    """Returns were not normalised before there was a switch for it; today's default does."""
    path, data = saved_at_0(tmp_path)
    del data["ppo"]["normalise_returns"], data["ppo"]["shuffle"], data["network"]["action_deviation"], data["physics"]
    path.write_text(json.dumps(data))
    config = configs.load(path)
    assert Config().ppo.normalise_returns and not config.ppo.normalise_returns
    assert (config.ppo.shuffle, config.network.action_deviation, config.physics.impl) == ("episodes", 1.0, "jax")
    path.write_text(json.dumps(data | {"schema": 1}))
    message = unreadable(path)
    assert "missing: network.action_deviation, physics.impl, ppo.normalise_returns, ppo.shuffle" in message


def test_a_run_from_before_a_discount_could_rise_keeps_the_one_that_it_had(tmp_path):
    config = presets.default("gridworld", "dynamite")
    data = json.loads(json.dumps(configs.to_dict(config))) | {"schema": 2}
    del data["ppo"]["gamma_start"], data["ppo"]["gamma_rise"]
    earlier = configs.from_dict(data, "config.json")
    assert config.ppo.gamma_rise > 0.0
    assert [float(discount(jnp.asarray(done), earlier.ppo)) for done in (0.0, 0.1, 1.0)] == pytest.approx(
        [config.ppo.gamma] * 3
    )


def test_a_field_that_is_gone_is_read_where_it_changed_nothing(tmp_path):
    path, data = saved_at_0(tmp_path)
    expected = configs.load(path)
    data["vae"]["until"] = 1.0
    path.write_text(json.dumps(data))
    assert configs.load(path) == expected
    data["vae"]["until"] = 0.5
    path.write_text(json.dumps(data))
    assert unreadable(path) == f"{path}: fields of the config are unknown: vae.until"


@pytest.mark.parametrize("schema", [configs.SCHEMA + 1, -1, "1", 1.0, True, None])
def test_a_schema_that_is_not_known_is_refused_by_number(tmp_path, schema):
    path, data = saved(tmp_path)
    path.write_text(json.dumps(data | {"schema": schema}))
    assert unreadable(path) == (
        f"{path}: schema is {schema!r}; this version of dynamite_jax reads 0 to {configs.SCHEMA}"
    )


def configs_in(data: Any) -> Iterator[Any]:
    """Every config in a report, with those in its rows."""
    for name, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        if name == "config":
            yield value
        else:
            yield from configs_in(value)


RESULTS = sorted(path for path in (Path(__file__).parents[1] / "results").rglob("*.json*"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_config_of_every_result_reads(path):
    reports = [json.loads(line) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else None
    for data in configs_in(reports or [json.loads(path.read_text())]):
        config = configs.from_dict(data, str(path))
        configs.validate(config)
        again = configs.to_dict(config)
        added = configs._since(data.get("schema", 0), configs._LATER_FIELDS)
        for section in ("network", "ppo", "physics", "vae"):
            later = {name.partition(".")[2]: value for name, value in added.items() if name.startswith(f"{section}.")}
            read, written = json.loads(json.dumps(again[section])), later | data[section]
            if section == "vae":  # a field of it is gone
                assert read.items() <= written.items()
            else:
                assert read == written


def test_the_results_hold_configs_to_read():
    records = [data for path in RESULTS if path.suffix == ".json" for data in configs_in(json.loads(path.read_text()))]
    assert len(records) >= 20


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
