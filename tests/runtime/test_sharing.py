"""Devices that share the environments of a seed: each plays its part, and the numbers are those of one device."""

import dataclasses
import os
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import assert_same, build, compiled, tiny_config
from dynamite_envs import registry
from dynamite_envs.dlcmdp import State
from dynamite_envs.errors import UserError
from dynamite_envs.probes import ContextBandit
from dynamite_jax.runtime import program as programs
from dynamite_jax.runtime.checkpoints import Checkpoints
from dynamite_jax.runtime.program import Program, blocks, devices_for, shares_for


def close(found: Any, expected: Any) -> None:
    """Two pytrees differ by rounding alone."""
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5, err_msg=jax.tree_util.keystr(path))


def shared(config, env=None) -> Program:
    return Program(config, registry.make(config.env, **config.env_options) if env is None else env, share_envs=2)


@pytest.mark.parametrize(
    ("env", "method", "changes"),
    [
        ("probe_match", "dynamite", {}),
        ("probe_match", "dynamite", {"vae": {"buffer_episodes": 12}, "ppo": {"shuffle": "steps"}}),
        ("probe_match", "rl2", {}),
        pytest.param("probe_match", "secbad", {}, marks=pytest.mark.slow),
        pytest.param("probe_match", "contrabar", {}, marks=pytest.mark.slow),
        pytest.param("probe_match", "task_inference", {}, marks=pytest.mark.slow),
        ("reacher", "dynamite", {"env_options": {"horizon": 20}, "steps": 320}),
    ],
)
def test_two_devices_learn_what_one_does(env, method, changes):
    """Rewards, losses and all of the state: nothing is drawn or averaged otherwise."""
    config = tiny_config(env, method, seeds=1, **changes)
    program = shared(config)
    assert dict(program.mesh.shape) == {"seed": 1, "env": 2}
    states = program.init()
    assert_same(states, build(config)[1])
    close(program.compile(states)(states), compiled(config)(build(config)[1]))


def test_each_device_plays_its_share():
    """Physics is called for as many environments as a device has, of two seeds on it."""
    config = tiny_config("reacher", seeds=2, num_envs=12, env_options={"horizon": 20}, steps=480)
    program = shared(config)
    assert program.blocks == [2]
    text = program.lower(program.init()).compile().as_text()
    shapes = set(re.findall(r"= f32\[([0-9,]+)\]\S* custom-call\(.*dynamite_mujoco_steps", text or ""))
    assert shapes and all(shape.startswith("2,6,") for shape in shapes)


def test_a_run_goes_on_with_another_number_of_shares(tmp_path):
    config = tiny_config("probe_match", seeds=1)
    program, checkpoints = shared(config), Checkpoints(tmp_path)
    states = program.init()
    states, _ = program.compile(states)(states)
    checkpoints.save(1, program.kept(states))
    checkpoints.wait()
    alone, fresh = build(config)
    _, kept, _ = checkpoints.restore(alone.kept(fresh))
    _, again, _ = checkpoints.restore(program.kept(program.init()))
    checkpoints.close()
    assert_same(alone.spread(kept), states)
    assert_same(program.spread(again), states)
    for x, y in zip(jax.tree.leaves(program.spread(again)), jax.tree.leaves(states), strict=True):
        assert x.sharding == y.sharding  # or the compiled chunk would refuse it
    compiled(config)(alone.spread(kept))


SEPARATE = """
import re
from conftest import tiny_config
from dynamite_envs import registry
from dynamite_jax.runtime.program import Program
program = Program(tiny_config("probe_match", seeds=2), registry.make("probe_match"), share_envs=2)
print(program.layout)
states = program.init()
text = program.lower(states).compile().as_text()
print(*sorted(set(re.findall(r"(?:replica_groups|source_target_pairs)=([^ ]*), ", text))))
"""


def test_devices_of_different_seeds_do_not_meet():
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run([sys.executable, "-c", SEPARATE], capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr
    layout, groups = process.stdout.splitlines()
    assert layout == "2 seeds on 4 devices: 1 each, the environments of each on 2"
    together = {"[2,2]<=[4]", "{{0,1},{2,3}}", "{{0,1},{1,0},{2,3},{3,2}}"}
    assert groups and together.issuperset(groups.split())


class Callback(ContextBandit):
    """Leaves the compiled program in each step."""

    def step(self, state: State, action: jax.Array) -> State:
        after = super().step(state, action)
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return after.replace(reward=jax.pure_callback(np.asarray, shape, after.reward, vmap_method="expand_dims"))


def test_an_environment_that_calls_python_is_not_shared(monkeypatch):
    probe = registry.make("probe_match")
    env = Callback(**{field.name: getattr(probe, field.name) for field in dataclasses.fields(probe)})
    config = tiny_config("probe_match", "markov", seeds=1)
    with pytest.raises(UserError, match="^share_envs is 2; a step of probe_match calls Python, so it must be 1$"):
        Program(config, env, share_envs=2)
    monkeypatch.setattr(programs, "shares_for", lambda *_: 2)
    assert Program(config, env).shares == 1
    assert Program(config, probe).shares == 2


def devices(*of_process: int, platform: str = "gpu") -> list[Any]:
    """As many devices of each process."""
    numbers = [number for number, count in enumerate(of_process) for _ in range(count)]
    return [SimpleNamespace(process_index=n, platform=platform, id=i) for i, n in enumerate(numbers)]


@pytest.mark.parametrize(
    ("seeds", "num_envs", "of_process", "platform", "expected"),
    [
        (1, 256, (8,), "gpu", 8),
        (3, 256, (8,), "gpu", 2),
        (8, 256, (8,), "gpu", 1),
        (9, 256, (8,), "gpu", 1),
        (1, 12, (8,), "gpu", 6),
        (1, 7, (8,), "gpu", 7),
        (2, 256, (4, 4), "tpu", 4),
        (2, 256, (6, 2), "tpu", 2),
        (4, 384, (4, 4, 4), "gpu", 2),  # with 3 there would be two seeds on a device, and a process without any
        (3, 256, (6, 6), "gpu", 2),
        (3, 320, (8, 8), "gpu", 4),
        (1, 256, (8,), "cpu", 1),
    ],
)
def test_devices_that_seeds_leave_over_share_environments(seeds, num_envs, of_process, platform, expected):
    config = tiny_config("probe_match", seeds=seeds, num_envs=num_envs)
    assert shares_for(config, devices(*of_process, platform=platform)) == expected


@pytest.mark.parametrize(
    ("seeds", "shares", "of_process", "expected"),
    [
        (2, 2, (4,), [[0, 1], [2, 3]]),
        (1, 2, (4,), [[0, 1]]),
        (3, 2, (5,), [[0, 1], [2, 3]]),
        (2, 4, (4, 4), [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (2, 2, (4, 4), [[0, 1], [4, 5]]),
        (3, 2, (4, 4), [[0, 1], [2, 3], [4, 5]]),
        (5, 1, (4, 4), [[0], [1], [2], [4], [5]]),
    ],
)
def test_a_row_of_devices_is_of_one_process(seeds, shares, of_process, expected):
    rows = devices_for(seeds, devices(*of_process), shares)
    assert [[device.id for device in row] for row in rows] == expected
    assert sum(blocks(seeds, len(rows))) == seeds


@pytest.mark.parametrize("shares", [0, 3])
def test_more_shares_than_devices_are_refused(shares):
    with pytest.raises(UserError, match=rf"^share_envs is {shares}; it must be from 1 to 2, the devices of a process$"):
        devices_for(2, devices(4, 2), shares)
