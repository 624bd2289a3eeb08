"""A run that is asked to stop keeps its state first, and goes on as if it had never been."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import pytest

from conftest import tiny_config
from dynamite_jax import config as configs
from dynamite_jax.commands import train
from dynamite_jax.runtime import interruption, loggers, loop, processes, training
from dynamite_jax.runtime.checkpoints import Checkpoints

FLAGS = "--env probe_match --env-options horizon=20 --seeds 1 --num-envs 8 --steps 80000 --checkpoint-every 1000"
FLAGS += " --eval-episodes 64 --no-tensorboard --ppo.minibatches 2 --network.hidden 8 --vae.minibatches 2"


def command(out, *more):
    return [sys.executable, "-m", "dynamite_jax.train", *FLAGS.split(), "--out", str(out), *more]


def started(out, *more):
    """A process that trains, once it has written its first record."""
    process = subprocess.Popen(command(out, *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").stat().st_size:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    return process


def kept(out):
    return [int(path.name) for path in (out / "checkpoints").iterdir() if path.name.isdigit()]


def test_a_process_that_is_asked_to_stop_goes_on_to_the_same_end(tmp_path):
    """No checkpoint is due before the end: that which is kept is made for the signal."""
    subprocess.run(command(tmp_path / "through", "--chunk", "5"), check=True, capture_output=True)
    out = tmp_path / "stopped"
    process = started(out, "--chunk", "5")
    process.terminate()
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 75 and not (out / "summary.json").exists()
    assert "SIGTERM: stopping once the chunk that runs is kept" in stderr
    assert stderr.endswith(f"stopped; go on with --out {out} --resume\n")
    assert kept(out) == [loggers.read(out / "metrics.jsonl")[-1]["chunk"]]
    assert kept(out)[0] < 80000 // (5 * 8 * 20)  # it did not go on to its end first
    subprocess.run(command(out, "--chunk", "5", "--resume"), check=True, capture_output=True)
    a, b = (json.loads((x / "summary.json").read_text()) for x in (tmp_path / "through", out))
    assert a["eval"] == b["eval"]


def test_a_second_signal_stops_at_once(tmp_path):
    process = started(tmp_path / "run", "--chunk", "1", "--steps", "4_000_000")
    process.send_signal(signal.SIGSTOP)  # so that it gets both while nothing runs
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and "stopped; go on with" in stderr and "Traceback" not in stderr
    assert not kept(tmp_path / "run")


@pytest.mark.parametrize("read, last", [(1, 2), (3, 3)])  # the second: while the last chunk is read
def test_signals_do_what_they_did_before_and_after(read, last, tmp_path, monkeypatch):
    config = tiny_config("probe_match", checkpoint_every=100)
    write, before = loggers.Log.write, [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]

    def ask(self, record):
        write(self, record)
        if record["chunk"] == read:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loggers.Log, "write", ask)
    with pytest.raises(interruption.Interrupted):
        training.train(config, tmp_path / "run")
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoints.any() and kept(tmp_path / "run") == [last]  # that which ran when the signal came
    checkpoints.close()
    monkeypatch.undo()
    assert training.train(config, tmp_path / "run", resume=True)["eval"]


def test_a_signal_ends_what_keeps_nothing_at_once():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for what runs behind them
    with pytest.raises(KeyboardInterrupt) as stop, interruption.requests(print, taken=False) as request:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    signal.signal(signal.SIGINT, before)
    assert not request.made and not isinstance(stop.value, interruption.Interrupted)


class Late:
    """An array that asks to stop whenever it is looked at, and is ready at the third look."""

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGINT)

    def __init__(self):
        self.looks = 0

    def is_ready(self):
        os.kill(os.getpid(), self.signals[self.looks])
        self.looks += 1
        return self.looks == 3


def test_signals_are_noticed_while_arrays_are_waited_for():
    lines, late, ready = [], Late(), jax.numpy.ones(())
    with interruption.requests(lines.append, taken=True) as request, pytest.raises(KeyboardInterrupt):
        interruption.wait([ready, late])
    assert request.made and len(lines) == 1 and late.looks == 1


@pytest.mark.parametrize("within_s, raised", [(60.0, False), (0.0, True)])
def test_sigterm_that_comes_twice_at_once_is_one(within_s, raised, monkeypatch):
    monkeypatch.setattr(interruption, "ECHO_S", within_s)
    lines, stopped = [], False
    with interruption.requests(lines.append, taken=True) as request:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            stopped = True
    assert request.signal == signal.SIGTERM and len(lines) == 1 and stopped == raised


def test_ctrl_c_that_comes_twice_is_two():
    with interruption.requests(print, taken=True), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_arrays_are_waited_for():
    @jax.jit
    def slow(x):
        return jax.lax.fori_loop(0, 500, lambda _, x: x @ x / 300.0, x)

    x = slow(jax.numpy.ones((300, 300)))
    interruption.wait([x])
    assert x.is_ready()


@pytest.mark.parametrize(
    "chunk_s, length, shorter",
    [(10, 20, None), (30, 20, None), (31, 20, 9), (60, 20, 5), (600, 20, 1), (900, 20, 0), (31, 1, 0)],
)
def test_chunks_that_are_too_long_for_schedulers_are_named(chunk_s, length, shorter):
    """By half of what they leave; where not even one meta-update ends in time, without a length."""
    lines = []
    loop._check_grace(chunk_s, length, lines.append)
    assert len(lines) == (shorter is not None)
    named = [re.findall(r"which --chunk (\d+) allows for", line) for line in lines]
    assert named == [[str(shorter)] if shorter else []] * len(lines)


@pytest.fixture
def long(monkeypatch) -> configs.Config:
    """A run whose chunks of four meta-updates are too long; it is kept once, at its end."""
    monkeypatch.setattr(loop, "_long", lambda _, length: loop.LongChunk(40.0, 1) if length == 4 else None)
    return tiny_config("probe_match", chunk=4, steps=1600, checkpoint_every=100)


def test_a_run_whose_chunks_are_long_begins_anew_with_shorter_ones(long, tmp_path, capsys):
    summary = training.train_shortened(long, tmp_path / "long")
    said = capsys.readouterr().err
    assert "a chunk takes 40 seconds, and" in said and ": beginning anew with chunks of 1 meta-updates; " in said
    expected = training.train_shortened(dataclasses.replace(long, chunk=1), tmp_path / "short")
    assert "beginning anew" not in capsys.readouterr().err
    assert configs.load(tmp_path / "long" / "config.json") == configs.load(tmp_path / "short" / "config.json")
    assert summary["eval"] == expected["eval"]
    records = [loggers.read(tmp_path / name / "metrics.jsonl") for name in ("long", "short")]
    assert [[r["chunk"], r["return"], r["env_steps"]] for r in records[0]] == [
        [r["chunk"], r["return"], r["env_steps"]] for r in records[1]
    ]


def test_a_run_that_is_asked_to_stop_in_a_long_chunk_keeps_it(long, tmp_path, monkeypatch):
    def ask(arrays):
        jax.block_until_ready(arrays)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(interruption, "wait", ask)
    with pytest.raises(interruption.Interrupted):
        training.train_shortened(long, tmp_path / "run")
    assert kept(tmp_path / "run") == [1]
    assert configs.load(tmp_path / "run" / "config.json").chunk == 4


def test_a_run_that_is_asked_to_stop_while_chunks_are_shortened_stops(long, tmp_path, monkeypatch):
    def ask(seconds):
        os.kill(os.getpid(), signal.SIGTERM)
        return seconds

    monkeypatch.setattr(processes, "greatest", ask)
    with pytest.raises(interruption.Interrupted):
        training.train_shortened(long, tmp_path / "run")
    assert not kept(tmp_path / "run")


@pytest.mark.parametrize(
    "flags, expected",
    [((), "train_shortened"), (("--chunk", "4"), "train"), (("--chunk=4",), "train"), (("--resume",), "train")],
)
def test_a_length_that_is_named_is_kept(flags, expected, tmp_path, monkeypatch):
    called = []
    for name in ("train", "train_shortened"):
        monkeypatch.setattr(training, name, lambda *_, name=name, **__: called.append(name) or {"meta_updates": 1})
    monkeypatch.setattr("sys.argv", ["train", "--env", "probe_match", "--out", str(tmp_path / "run"), *flags])
    train.main()
    assert called == [expected]
