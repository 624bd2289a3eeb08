"""Where the C engine runs: by default on CPUs, elsewhere refused with a reason; and its program in the cache."""

import subprocess
import sys
import warnings
from typing import Any

import jax
import mujoco as untyped
import numpy as np
import pytest

from dynamite_envs import registry
from dynamite_envs.errors import FallbackWarning, UserError
from dynamite_envs.physics import backend, c, ffi, mujoco_batch
from dynamite_envs.physics.backend import MuJoCoDLCMDP
from dynamite_envs.physics.mujoco_batch import Stepper

mujoco: Any = untyped


@pytest.fixture
def untried():
    """As in a process that has not looked yet whether the engine can be called."""
    c._unusable_on_cpu.cache_clear()
    yield
    c._unusable_on_cpu.cache_clear()


def refused(reason: str) -> None:
    """`c` is refused for a reason; `auto` goes on by MJX and says so."""
    with pytest.raises(UserError, match=f"impl is 'c'; {reason}"):
        registry.make("reacher", impl="c")
    with pytest.warns(FallbackWarning, match=f"MJX, which is slower: impl is 'c'; {reason}"):
        assert backend.resolve("auto") == "jax"


def test_it_is_the_default_on_cpus():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("halfcheetah_vel", "reacher", "scratch_itch"):
            env = registry.make(name)
            assert isinstance(env, MuJoCoDLCMDP) and env.simulator.impl == "c"


def test_another_mujoco_is_refused(untried, monkeypatch):
    monkeypatch.setattr(mujoco, "__version__", "3.18.0")
    refused("it needs MuJoCo 3.17.0, and 3.18.0 is installed")


def test_another_interface_of_xla_is_refused(untried, monkeypatch):
    monkeypatch.setattr(ffi, "VERSIONS", ((9, 9),))
    monkeypatch.setattr(c, "OPERATION", "dynamite_mujoco_steps_of_a_test")  # a name that is not registered yet
    refused("it can't be called here: XLA's foreign functions are of version 0.[345], and known are 9.9")


def test_a_library_that_can_not_be_had_is_refused(untried, monkeypatch):
    def default_mode() -> Any:
        raise OSError("no such library")

    monkeypatch.setattr(c, "_steppers", {})
    monkeypatch.setattr(mujoco_batch, "default_mode", default_mode)
    refused("it can't be called here: no such library")


def test_an_engine_that_steps_otherwise_is_refused(untried, monkeypatch):
    step = Stepper.__call__

    def other(self: Stepper, argument: np.ndarray, result: np.ndarray) -> None:
        step(self, argument, result)
        result[:, 0] = np.nextafter(result[:, 0], 1)

    monkeypatch.setattr(Stepper, "__call__", other)
    refused("its first step here is not MuJoCo's")


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_on_an_accelerator_it_is_refused_and_the_default_is_mjx(platform, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    with pytest.raises(UserError, match=f"impl is 'c'; it runs on CPUs, and JAX runs on {platform}"):
        registry.make("reacher", impl="c")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backend.resolve("auto") == "jax"


PROGRAM = """
import jax, jax.numpy as jnp
jax.config.update("jax_compilation_cache_dir", {folder!r})
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
from dynamite_envs import registry
env = registry.make("scratch_itch")
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("cache_hits") else None)
@jax.jit
def steps(env, key):
    start = jax.vmap(env.reset)(jax.random.split(key, 4))
    step = lambda state, _: (jax.vmap(env.step)(state, jnp.ones((4, 7))), None)
    return jax.lax.scan(step, start, length=20)[0].obs
obs = steps(env, jax.random.key(0))
print(len(hits) > 0, obs.tobytes().hex())
"""


def test_a_second_process_takes_the_program_from_the_cache(tmp_path):
    command = [sys.executable, "-c", PROGRAM.format(folder=str(tmp_path / "cache"))]
    outputs, files = [], []
    for _ in range(2):
        outputs.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        files.append(sorted(path.name for path in (tmp_path / "cache").glob("*-cache")))
    assert [hit for hit, _ in outputs] == ["False", "True"] and files[0] == files[1]
    assert outputs[0][1] == outputs[1][1]
