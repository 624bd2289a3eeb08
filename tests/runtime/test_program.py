"""Seeds on devices: spread evenly, none idle in silence, none dependent on the layout; one type of state."""

import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import assert_same, build, tiny_config
from dynamite_envs import registry
from dynamite_jax.methods import of_setting
from dynamite_jax.runtime import loggers
from dynamite_jax.runtime.checkpoints import Checkpoints
from dynamite_jax.runtime.program import Program, blocks

FLAGS = "--env probe_match --num-envs 8 --chunk 2 --steps 640 --checkpoint-every 1 --eval-episodes 64 --no-tensorboard"
FLAGS += " --ppo.minibatches 2 --ppo.delay 0 --network.hidden 8 --vae.minibatches 2"


@pytest.mark.parametrize(
    ("seeds", "devices", "expected"),
    [
        (5, 3, [2, 2, 1]),
        (4, 4, [1] * 4),
        (8, 4, [2] * 4),
        (7, 4, [2, 2, 2, 1]),
        (3, 1, [3]),
        (5, 4, [2, 2, 1, 0]),
    ],
)
def test_seeds_are_dealt_out_in_equal_numbers(seeds, devices, expected):
    assert blocks(seeds, devices) == expected


def program(seeds: int, devices: int, monkeypatch, **changes) -> Program:
    """A program that finds that many devices, of those that the process has."""
    cpus = jax.devices("cpu")[:devices]
    if len(cpus) < devices:
        pytest.skip(f"{devices} cores are needed")
    config = tiny_config("probe_match", seeds=seeds, **changes)
    with monkeypatch.context() as patch:
        patch.setattr(jax, "devices", lambda: cpus)
        return Program(config, registry.make(config.env))


def test_an_uneven_layout_gives_each_seed_what_an_even_one_gives_it(monkeypatch):
    uneven, even = program(3, 2, monkeypatch), program(3, 1, monkeypatch)
    assert uneven.padded and not even.padded
    runs = {}
    for laid_out in (uneven, even):
        states = laid_out.init()
        first = laid_out.gather(states)
        np.testing.assert_array_equal(jax.random.key_data(first.key), jax.random.key_data(even.init().key))
        states, metrics = laid_out.compile(states)(states)
        runs[laid_out] = jax.device_get((laid_out.gather(states).policy_params, metrics))
    for result, expected in zip(jax.tree.leaves(runs[uneven]), jax.tree.leaves(runs[even]), strict=True):
        assert result.shape == expected.shape and len(result) == 3
        np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-5)


def test_rows_and_seeds_are_two_views_of_the_same(monkeypatch):
    laid_out = program(3, 2, monkeypatch)
    seeds = {"x": jnp.arange(3.0), "key": jax.random.split(jax.random.key(0), 3)}
    rows = laid_out.spread(seeds)
    assert rows["x"].tolist() == [0.0, 1.0, 2.0, 2.0]
    assert_same(laid_out.gather(rows), seeds)


def test_gathering_compiles_once(monkeypatch):
    """It is done in every chunk where seeds are uneven, and across processes."""
    laid_out, compiled = program(3, 2, monkeypatch), []
    rows = laid_out.spread({"x": jnp.arange(3.0)})
    jax.monitoring.register_event_duration_secs_listener(lambda event, duration_secs, **_: compiled.append(event))
    laid_out.gather(rows)
    assert any("backend_compile" in event for event in compiled)
    compiled.clear()
    laid_out.gather(rows)
    jax.monitoring.clear_event_listeners()
    assert not any("compile" in event for event in compiled)


def test_each_seed_has_its_own_hyperparameters_in_an_uneven_layout(monkeypatch):
    laid_out = program(3, 2, monkeypatch)
    hyper = jax.tree.map(lambda x: jnp.full(3, x), laid_out.algorithm.hyper)
    still = (hyper[0].replace(lr=jnp.array([1e-3, 0.0, 1e-3])), hyper[1].replace(lr=jnp.array([1e-3, 0.0, 1e-3])))
    states = laid_out.init()
    before = jax.device_get(laid_out.gather(states).policy_params)
    after = jax.device_get(laid_out.gather(laid_out.compile(states, still)(states)[0]).policy_params)
    kernels = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    moved = np.array([[np.any(a[seed] != b[seed]) for seed in range(3)] for a, b in kernels])
    assert moved.any(0).tolist() == [True, False, True]


def test_a_checkpoint_of_one_layout_restores_on_another(monkeypatch, tmp_path):
    uneven, even = program(3, 2, monkeypatch), program(3, 1, monkeypatch)
    checkpoints = Checkpoints(tmp_path)
    states = uneven.gather(uneven.init())
    checkpoints.save(1, states)
    checkpoints.wait()
    _, restored, damaged = checkpoints.restore(even.init())
    checkpoints.close()
    assert not damaged
    assert_same(even.gather(even.spread(restored)), states)


def test_an_uneven_layout_has_no_collective(monkeypatch):
    laid_out = program(3, 2, monkeypatch)
    states = laid_out.init()
    lowered = jax.jit(laid_out.over_seeds(lambda state: jax.tree.map(jnp.sin, state.policy_params))).lower(states)
    assert not re.search(r"all-reduce|all-gather|all-to-all|collective-permute", lowered.compile().as_text() or "")


def test_states_lie_on_the_mesh_from_the_start(tiny):
    laid_out, states = build(tiny)
    assert laid_out.mesh.axis_names == ("seed", "env") and laid_out.mesh.shape["env"] == 1
    for leaf in jax.tree.leaves(states):
        assert leaf.sharding.device_set == set(laid_out.mesh.devices.ravel())
        assert len(leaf.sharding.shard_shape(leaf.shape)) == leaf.ndim
        assert leaf.sharding.shard_shape(leaf.shape)[0] == 2 // len(laid_out.blocks)


@pytest.mark.parametrize(
    "env, method", [("gridworld", m) for m in of_setting("online")] + [("point_robot", "dynamite")]
)
def test_fresh_and_restored_states_have_the_same_types(env, method, tmp_path):
    _, states = build(tiny_config(env, method))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, states)
    checkpoints.wait()
    _, restored, _ = checkpoints.restore(states)
    checkpoints.close()
    for (path, fresh), again in zip(
        jax.tree_util.tree_leaves_with_path(states), jax.tree.leaves(restored), strict=True
    ):
        kinds = [(jax.typeof(x), x.sharding) for x in (fresh, again)]
        assert kinds[0] == kinds[1], jax.tree_util.keystr(path)
        assert not getattr(fresh, "weak_type", False), jax.tree_util.keystr(path)


def command(module: str, *flags: str, **environment: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", f"dynamite_jax.{module}", *flags]
    return subprocess.run(line, capture_output=True, text=True, env=os.environ | environment)


def test_five_seeds_train_on_four_devices_and_evaluate_on_one(tmp_path):
    run = tmp_path / "run"
    process = command("train", *FLAGS.split(), "--seeds", "5", "--out", str(run), JAX_NUM_CPU_DEVICES="4")
    assert process.returncode == 0, process.stderr
    assert "5 seeds on 3 of 4 devices: 2+2+1" in process.stderr
    assert all(len(record["return"]) == 5 for record in loggers.read(run / "metrics.jsonl"))
    summary = json.loads((run / "summary.json").read_text())
    root = json.loads((run / "config.json").read_text())["seed"]
    flags = ("--run", str(run), "--episodes", "64", "--seed", str(root))
    process = command("evaluate", *flags, JAX_NUM_CPU_DEVICES="1")
    assert process.returncode == 0, process.stderr
    again = json.loads((run / "evaluation.json").read_text())
    assert again["return"]["per_seed"] == pytest.approx(summary["eval"]["return"]["per_seed"], rel=1e-5)
    assert len(again["return"]["per_seed"]) == 5


RESUME = """
import sys, pathlib
from dynamite_jax.runtime import devices, loggers, training
write = loggers.Log.write
def stop(self, record):
    write(self, record)
    if record["chunk"] == 2:
        raise KeyboardInterrupt
def chunks():
    return {p.name for p in pathlib.Path(sys.argv[1]).iterdir() if "chunk" in p.name}
devices.setup(1)
from conftest import tiny_config
config = tiny_config("probe_match", seeds=1)
out = pathlib.Path(sys.argv[2])
loggers.Log.write = stop
try:
    training.train(config, out)
except KeyboardInterrupt:
    loggers.Log.write = write
before = chunks()
training.train(config, out, resume=True)
print(len(before), len(chunks()))
"""


def test_a_resume_compiles_nothing_anew(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)}
    line = [sys.executable, "-c", RESUME, str(cache), str(tmp_path / "run")]
    process = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr
    before, after = process.stdout.split()[-2:]
    assert int(before) > 0 and before == after
