"""The chunk lowers for accelerators on a machine that has none."""

import re
from functools import partial

import jax
import numpy as np
import pytest

from conftest import tiny_config
from dynamite_envs import registry
from dynamite_envs.physics.backend import MuJoCoDLCMDP
from dynamite_envs.registry import MAKERS
from dynamite_jax import config as configs
from dynamite_jax.config import PhysicsConfig
from dynamite_jax.methods import of_setting
from dynamite_jax.runtime.program import Program

CASES = [(env, "dynamite") for env in MAKERS] + [
    ("gridworld", method) for method in of_setting("online") if method != "dynamite"
]


def shapes_of(program):
    """Shapes of the first states, [seeds, ...]; nothing is compiled."""
    init = partial(program.algorithm.init, program.env)
    return jax.eval_shape(jax.vmap(init), np.arange(program.config.seeds))


LARGE = ("humanoid_dir", "ant_goal")


@pytest.mark.parametrize(
    "env, method", [pytest.param(*case, marks=[pytest.mark.slow] * (case[0] in LARGE)) for case in CASES]
)
def test_the_chunk_lowers_for_cuda_and_tpu(env, method):
    physics = PhysicsConfig("jax") if isinstance(registry.make(env), MuJoCoDLCMDP) else PhysicsConfig()
    config = tiny_config(env, method, physics=physics, env_options={"horizon": 30})
    program = Program(config, configs.validate(config))
    text = program.lower(shapes_of(program), platforms=("cuda", "tpu")).as_text()
    assert "_platform_index" in text  # one program for both
    called = set(re.findall(r"custom_call @(\w+)", text))
    assert not [name for name in called if "mujoco" in name or "callback" in name]
    assert not re.search(r"stablehlo\.(all_|collective_|reduce_scatter)", text)


@pytest.mark.parametrize("env", ["gridworld", "halfcheetah_vel"])
def test_the_chunk_of_devices_that_share_environments_lowers_too(env):
    """The compiler of the devices splits the arrays; what a device plays is split before."""
    physics = PhysicsConfig("jax") if isinstance(registry.make(env), MuJoCoDLCMDP) else PhysicsConfig()
    config = tiny_config(env, physics=physics, env_options={"horizon": 30})
    program = Program(config, configs.validate(config), share_envs=2)
    text = program.lower(shapes_of(program), platforms=("cuda", "tpu")).as_text()
    assert "_platform_index" in text
    assert 'manual_axes={"env"}' in text
