"""Small sets of recorded episodes, and runs that learn from them."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from conftest import tiny_config
from dynamite_envs import registry
from dynamite_envs.dlcmdp import DLCMDP
from dynamite_jax import config as configs
from dynamite_jax.config import Config
from dynamite_jax.datasets import collection, recording
from dynamite_jax.datasets.dataset import Dataset
from dynamite_jax.datasets.recording import Episodes
from dynamite_jax.datasets.windows import Windows
from dynamite_jax.runtime.program import Program


def played(env: DLCMDP, episodes: int = 6, seed: int = 0) -> Episodes:
    """Episodes of random actions."""
    return jax.jit(recording.of_random_actions, static_argnums=1)(env, episodes, jax.random.key(seed))


def collected(
    out: Path,
    env: str = "probe_match",
    episodes: int = 24,
    shard: int = 4,
    policies: tuple[str, ...] = ("random",),
    options: dict[str, Any] | None = None,
) -> Dataset:
    """A set of episodes on disk."""
    config = Config(env=env, env_options=options or {})
    request = collection.Request(config, policies, episodes, shard, seed=3)
    return collection.collect(request, registry.make(env, **config.env_options), out, lambda done, shards: None)


def offline_config(data: Path | str, env: str = "probe_match", method: str = "dynamite", **changes: Any) -> Config:
    """The smallest sensible run that learns from recorded episodes; `offline` takes its own changes as a dict."""
    own = {"data": str(data), "minibatches": 2, "watched_episodes": 4, **changes.pop("offline", {})}
    config = tiny_config(env, method, **changes)
    offline = config.offline.replace(**own)
    return dataclasses.replace(config, setting="offline", offline=offline)


def program_of(config: Config, completed_chunks: int = 0, most_bytes: int | None = None) -> Program:
    """The program of a run, with what it learns from."""
    env = configs.validate(config)
    windows = Windows.of_config(config, env)
    if most_bytes is not None:
        windows = dataclasses.replace(windows, most_bytes=most_bytes)
    program = Program(config, env)
    program.worlds = windows.worlds(program, completed_chunks)
    return program
