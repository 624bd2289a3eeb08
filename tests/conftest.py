"""Settings that hold for all tests, made before JAX starts; and the small run that many of them use."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ.pop("PYTHONWARNINGS", None)  # programs that tests start warn, whatever this shell hides
os.environ.setdefault("MUJOCO_GL", "egl")  # as the command `video` has it; MuJoCo reads it when it is imported
# Most tests compile far longer than they run, so the compiler's optimisation is switched off.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import shapes

shapes.check()  # of the modules that are imported from here on

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynamite_envs import registry
from dynamite_jax.algorithms.meta_ppo import TrainState
from dynamite_jax.config import Config, NetworkConfig
from dynamite_jax.methods import METHODS
from dynamite_jax.runtime import devices
from dynamite_jax.runtime.program import Program

pytest_plugins = ("refusals",)  # the fixture of commands that must refuse their input

_MAPS = Path("/proc/self/maps")  # Linux ends a process that asks for more than 65,530 of them
_tests_run = itertools.count(1)

devices.setup(seeds=2)  # two seeds on as many devices as there are cores, as `make train` would lay them out


def pytest_runtest_teardown() -> None:
    """Forget compiled programs before their memory maps are as many as a process may have."""
    if next(_tests_run) % 10 == 0 and _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture
def tiny() -> Config:
    """A run of two seeds that compiles and trains in seconds: 4 meta-updates a chunk, 8 environments."""
    return tiny_config("probe_match")


def tiny_config(env: str, method: str = "dynamite", **changes) -> Config:
    """The smallest sensible run, with no number of a preset in it; `vae` and `ppo` take their own changes as dicts."""
    network = NetworkConfig(hidden=8, embedding=4, latent=2, decoder_hidden=(8,), policy_hidden=(8,), value_hidden=(8,))
    config = METHODS[method].configure(Config(env=env, method=method, network=network))
    vae = config.vae.replace(**{"minibatches": 2, "decode_terms": 2, **changes.pop("vae", {})})
    ppo = config.ppo.replace(**{"minibatches": 2, "epochs": 2, **changes.pop("ppo", {})})
    sizes = {"num_envs": 8, "chunk": 2, "seeds": 2, "steps": 960, "eval_episodes": 64, "checkpoint_every": 1}
    return dataclasses.replace(config, vae=vae, ppo=ppo, **{**sizes, **changes})


@functools.cache
def _built(config: Config) -> tuple[Program, TrainState]:
    program = Program(config, registry.make(config.env, **config.env_options))  # shorter runs than users may
    return program, program.init()


def build(config: Config) -> tuple[Any, TrainState]:
    """A program of the config and a fresh copy of its first states; each config is initialised once."""
    program, states = _built(config)
    return program, jax.tree.map(jnp.copy, states)


@functools.cache
def compiled(config: Config) -> Callable:
    """The executable chunk of a config, compiled once."""
    program, states = build(config)
    return program.compile(states)


def assert_same(a, b) -> None:
    """Two pytrees are equal bit for bit."""
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=jax.tree_util.keystr(path))
