"""A run that is killed goes on bit for bit, and refuses to go on as another run."""

import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from conftest import assert_same, build, compiled, tiny_config
from dynamite_envs import registry
from dynamite_envs.brax import BraxDLCMDP
from dynamite_envs.physics.backend import MuJoCoDLCMDP
from dynamite_envs.registry import MAKERS
from dynamite_jax import config as configs
from dynamite_jax.methods import of_setting
from dynamite_jax.runtime import loggers, loop, provenance, run_folder, training
from dynamite_jax.runtime.checkpoints import Checkpoints
from dynamite_jax.runtime.program import Program

# What the others add to these is tested by the slow tests.
CASES = [(env, "dynamite") for env in ("gridworld", "point_robot", "probe_match", "reacher")]
CASES += [("gridworld", method) for method in of_setting("online") if method not in ("dynamite", "varibad")]


@pytest.mark.parametrize("env, method", CASES)
def test_saved_and_restored_training_equals_uninterrupted_training(env, method, tmp_path):
    changes = {"vae": {"buffer_episodes": 12}} if env == "probe_match" else {}
    config = tiny_config(env, method, **changes)
    step = compiled(config)
    half, _ = step(build(config)[1])
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, half)  # a copy: the next chunk uses up its arrays
    uninterrupted, expected = step(half)
    checkpoints.wait()
    number, restored, damaged = checkpoints.restore(build(config)[1])
    checkpoints.close()
    assert (number, damaged) == (1, [])
    resumed, metrics = step(restored)
    assert_same(uninterrupted, resumed)
    assert_same(expected, metrics)


# Physics compiles slowly, and methods don't see it: one of them will do there.
SLOW = (MuJoCoDLCMDP, BraxDLCMDP)
OTHERS = [
    (e, m) for e in MAKERS for m in of_setting("online") if m == "dynamite" or not isinstance(registry.make(e), SLOW)
]


@pytest.mark.slow
@pytest.mark.parametrize("env, method", [case for case in OTHERS if case not in CASES])
def test_every_other_method_and_environment_resumes_too(env, method, tmp_path):
    test_saved_and_restored_training_equals_uninterrupted_training(env, method, tmp_path)


def test_a_run_stopped_in_the_middle_ends_as_if_it_never_was(tiny, tmp_path, monkeypatch):
    config = dataclasses.replace(tiny, steps=8 * tiny.num_envs * 20, checkpoint_every=2)  # 4 chunks
    through = training.train(config, tmp_path / "through")

    write = loggers.Log.write

    def stop_at_three(self, record):
        write(self, record)
        if record["chunk"] == 3:  # a chunk past the checkpoint, already in metrics.jsonl
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loggers.Log, "write", stop_at_three)
        training.train(config, tmp_path / "stopped")
    assert [r["chunk"] for r in loggers.read(tmp_path / "stopped" / "metrics.jsonl")] == [1, 2, 3]
    resumed = training.train(config, tmp_path / "stopped", resume=True)

    timing = ("wall_s", "steps_per_s")
    records = [loggers.read(tmp_path / name / "metrics.jsonl") for name in ("through", "stopped")]
    assert [r["chunk"] for r in records[1]] == [1, 2, 3, 4]
    for a, b in zip(*records, strict=True):
        assert {k: v for k, v in a.items() if k not in timing} == {k: v for k, v in b.items() if k not in timing}
    assert through["eval"] == resumed["eval"]
    states = []
    for name in ("through", "stopped"):
        checkpoints = Checkpoints(tmp_path / name / "checkpoints")
        program = Program(config, registry.make(config.env))
        states.append(checkpoints.restore(program.init())[1])
        checkpoints.close()
    assert_same(*states)


@pytest.mark.parametrize("env", ["probe_match", pytest.param("reacher", marks=pytest.mark.slow)])
def test_a_killed_process_resumes_to_the_same_end(env, tmp_path):
    """SIGKILL at an arbitrary moment of the real command; then the same command with --resume."""
    flags = f"--env {env} --env-options horizon=20 --seeds 1 --num-envs 8 --chunk 5 --steps 80000"
    flags += " --checkpoint-every 3 --eval-episodes 64 --no-tensorboard"
    flags += " --ppo.minibatches 2 --network.hidden 8 --vae.minibatches 2"

    def command(name, *more):
        return [sys.executable, "-m", "dynamite_jax.train", *flags.split(), "--out", str(tmp_path / name), *more]

    subprocess.run(command("through"), check=True, capture_output=True)
    process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not [p for p in (tmp_path / "killed").glob("checkpoints/*") if p.name.isdigit()]:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "summary.json").exists()
    subprocess.run(command("killed", "--resume"), check=True, capture_output=True)
    a, b = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("through", "killed"))
    assert a["eval"] == b["eval"]
    digests = [
        sorted((tmp_path / name / "checkpoints").glob("*/digests/metadata"))[-1] for name in ("through", "killed")
    ]
    assert json.loads(digests[0].read_text()) == json.loads(digests[1].read_text())


def test_a_run_killed_before_its_first_checkpoint_starts_again(tiny, tmp_path, monkeypatch):
    through = training.train(tiny, tmp_path / "through")

    def stop(self, record):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loggers.Log, "write", stop)
        training.train(tiny, tmp_path / "killed")
    assert training.train(tiny, tmp_path / "killed", resume=True)["eval"] == through["eval"]


OTHER = {"digest": "of another day", "modules": []}


@pytest.mark.parametrize("saved", [2, 0])
def test_a_run_that_goes_on_with_other_code_says_so(saved, tiny, tmp_path, monkeypatch, capsys):
    """Unless the other code had made no chunk that is kept."""
    config = dataclasses.replace(tiny, steps=8 * tiny.num_envs * 20, checkpoint_every=saved or 9)  # 4 chunks
    write = loggers.Log.write

    def stop_at_three(self, record):
        write(self, record)
        if record["chunk"] == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loggers.Log, "write", stop_at_three)
        patch.setattr(provenance, "code", lambda: OTHER)
        patch.setattr(provenance, "commit", lambda: "c0ffee")
        training.train(config, tmp_path)
    training.train(config, tmp_path, resume=True)
    warning = "warning: chunks 1 to 2 of this run were made by other code, of commit c0ffee"
    assert (warning in capsys.readouterr().err) == (saved == 2)
    assert [x["completed_chunks"] for x in run_folder.origins(tmp_path)] == ([0, 2] if saved else [0])
    assert run_folder.of_todays_code(tmp_path) == (saved == 0)
    assert [x["completed_chunks"] for x in loggers.read(tmp_path / "origins.jsonl")] == [0, saved]


def test_another_config_is_refused_by_its_fields(tiny, tmp_path):
    (tmp_path / "config.json").parent.mkdir(exist_ok=True)
    configs.save(tiny, tmp_path / "config.json")
    other = dataclasses.replace(tiny, ppo=tiny.ppo.replace(clip=0.3), num_envs=16)
    with pytest.raises(configs.ConfigError, match=r"num_envs: 8 -> 16; ppo.clip: 0.2 -> 0.3"):
        training.train(other, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("not_finite", "said"),
    [
        ("stop", "policy loss of seed 1 not finite in chunk 3, meta-update 5; the last good"),
        (
            "skip",
            "all meta-updates of seed 1 were left out in chunk 3, after policy loss of seed 1 not finite in chunk 3",
        ),
    ],
)
def test_weights_that_are_not_finite_stop_the_run_and_are_not_kept(tiny, tmp_path, monkeypatch, not_finite, said):
    """Also where such meta-updates are left out: they were so before the first of them."""
    config = dataclasses.replace(tiny, steps=8 * tiny.num_envs * 20, not_finite=not_finite)
    compile_chunk = Program.compile
    calls = []

    def poisoned(self, states):
        step = compile_chunk(self, states)

        def run(states):
            calls.append(1)
            if len(calls) == 3:
                broken = jax.tree.map(lambda x: x.at[1].multiply(np.nan), states.policy_params)
                states = states.replace(policy_params=broken)
            return step(states)

        return run

    monkeypatch.setattr(Program, "compile", poisoned)
    with pytest.raises(loop.Diverged, match=said):
        training.train(config, tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    program = Program(config, registry.make(config.env))
    number, states, _ = checkpoints.restore(program.init())
    checkpoints.close()
    assert number == 2 and not np.asarray(states.faults.count).any()
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(states.policy_params))
    assert [r["chunk"] for r in loggers.read(tmp_path / "run" / "metrics.jsonl")] == [1, 2]


def test_a_run_has_failed_from_one_percent_of_left_out_meta_updates_on():
    training.check_left_out({"meta_updates": 201, "left_out": [0, 2]})
    training.check_left_out({"meta_updates": 50, "left_out": [0, 0]})
    training.check_left_out({"meta_updates": 50})  # of an earlier version
    with pytest.raises(loop.Diverged, match="^3 of 300 meta-updates of seed 1 were left out, .* from 1% on"):
        training.check_left_out({"meta_updates": 300, "left_out": [0, 3, 3, 1]})


def test_a_trace_of_one_chunk_is_written_and_changes_no_number(tiny, tmp_path):
    """Perfetto reads it, and what devices did in the chunk is in it."""
    plain = training.train(tiny, tmp_path / "plain")
    traced = training.train(tiny, tmp_path / "traced", profile=True)
    assert plain["eval"] == traced["eval"] and not (tmp_path / "plain" / "profile").exists()
    (trace,) = (tmp_path / "traced" / "profile").rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    names = {event.get("name", "") for event in events}
    assert any(name.startswith("dot") for name in names)  # a product of matrices
    assert list((tmp_path / "traced" / "profile").rglob("*.xplane.pb"))
