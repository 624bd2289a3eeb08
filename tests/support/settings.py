"""A config to change, and ways to change it."""

import dataclasses
from typing import Any

import pytest

from dynamite_jax import config as configs
from dynamite_jax.config import Config, ConfigError, PPOConfig, VAEConfig

BASE = Config(num_envs=1024, chunk=10, steps=20_000_000, vae=VAEConfig(minibatches=8), ppo=PPOConfig(minibatches=16))


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every field that is not a section, by its dotted name."""
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        nested = dataclasses.is_dataclass(value)
        values |= flat(value, f"{prefix}{field.name}.") if nested else {prefix + field.name: value}
    return values


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
        configs.validate(config)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


FIELDS = flat(BASE)
