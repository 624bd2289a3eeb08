"""Several processes are one run: the same numbers as one process, one folder, one end, and a way on for any layout."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from damage import cut, flip, largest
from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax.runtime import loggers, processes
from dynamite_jax.runtime.processes import Processes
from dynamite_jax.runtime.program import Program, blocks, devices_for
from experiments.launch import pod_local
from restoring import restore

FLAGS = "--env probe_match --seeds 5 --num-envs 8 --chunk 2 --steps 1280 --checkpoint-every 1 --eval-episodes 64"
FLAGS += " --no-tensorboard --ppo.minibatches 2 --network.hidden 8 --vae.minibatches 2"
LONG = ("--steps", "160000", "--checkpoint-every", "1000")


def alone(out, *more, devices=1):
    """A command of a single process."""
    line = [sys.executable, "-m", "dynamite_jax.train", *FLAGS.split(), "--out", str(out), *more]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.run(line, capture_output=True, text=True, env=environment, timeout=240)


def pod_command(out, *more, hosts=2, devices=4):
    job = ["--hosts", str(hosts), "--devices", str(devices)]
    return [sys.executable, "-m", "experiments.launch.pod_local", *job, "--", *FLAGS.split(), "--out", str(out), *more]


def pod(out, *more, hosts=2, devices=4):
    """A run of several processes on this machine."""
    line = pod_command(out, *more, hosts=hosts, devices=devices)
    return subprocess.run(line, capture_output=True, text=True, timeout=240)


def started(out, *more):
    """Two processes that train, once a chunk is written that had not been."""
    before = len(loggers.read(out / "metrics.jsonl"))
    process = subprocess.Popen(pod_command(out, *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while len(loggers.read(out / "metrics.jsonl")) <= before:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    return process


def child(process):
    """The process that is not the first of those that were started."""
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    return int(children[-1])


def numbers(out):
    """Metrics of each chunk as arrays, without times."""
    records = loggers.read(out / "metrics.jsonl")
    return [{name: np.array(x) for name, x in record.items() if isinstance(x, list)} for record in records]


def evaluation(out):
    return json.loads((out / "summary.json").read_text())["eval"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of a single process with as many devices."""
    out = tmp_path_factory.mktemp("whole") / "run"
    process = alone(out, devices=8)
    assert process.returncode == 0, process.stderr
    return out


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """The same run of two processes."""
    out = tmp_path_factory.mktemp("two") / "run"
    process = pod(out)
    assert process.returncode == 0, process.stderr
    assert "5 seeds on 5 of 8 devices of 2 processes" in process.stderr
    assert process.stderr.count("compiled in") == 1  # only the first prints
    return out


def test_two_processes_compute_what_one_does(whole, of_two):
    for found, expected in zip(numbers(of_two), numbers(whole), strict=True):
        assert found.keys() == expected.keys()
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(evaluation(of_two)["return"]["per_seed"], evaluation(whole)["return"]["per_seed"], 1e-5)


def test_eight_devices_compute_what_one_does(whole, tmp_path):
    """One compiled shape is another: they may differ by rounding, which grows from chunk to chunk."""
    out = tmp_path / "run"
    process = alone(out, "--steps", "320")
    assert process.returncode == 0, process.stderr
    for name, expected in numbers(whole)[0].items():
        np.testing.assert_allclose(numbers(out)[0][name], expected, rtol=1e-5, atol=1e-5, err_msg=name)


def going_on(source, target, chunk):
    """A copy of a run as it was when it had kept a chunk."""
    shutil.copytree(source, target)
    (target / "summary.json").unlink()
    for step in (target / "checkpoints").iterdir():
        if step.name != str(chunk):
            shutil.rmtree(step) if step.is_dir() else step.unlink()
    return target


@pytest.mark.slow
def test_devices_of_each_process_share_the_environments_of_its_seed(tmp_path):
    """Two seeds on 2 x 4 devices; what they kept goes on without sharing."""
    flags = ("--seeds", "2", "--steps", "640", "--chunk", "1")
    out, expected = tmp_path / "shared", tmp_path / "alone"
    process = pod(out, *flags, "--share-envs", "4")
    assert process.returncode == 0, process.stderr
    assert "2 seeds on 8 devices of 2 processes: 1 each, the environments of each on 4" in process.stderr
    process = alone(expected, *flags)
    assert process.returncode == 0, process.stderr
    for found, record in zip(numbers(out), numbers(expected), strict=True):
        for name in record:
            np.testing.assert_allclose(found[name], record[name], rtol=1e-4, atol=1e-4, err_msg=name)
    again = going_on(out, tmp_path / "again", 3)
    process = pod(again, *flags, "--resume")
    assert process.returncode == 0, process.stderr
    assert evaluation(again)["return"]["per_seed"] == pytest.approx(evaluation(out)["return"]["per_seed"], rel=1e-4)


def test_a_run_goes_on_with_any_number_of_processes(whole, of_two, tmp_path):
    """Uneven ones, too: five seeds on 2 x 2 devices are 2, 2, 1 and a device that repeats the last."""
    one = going_on(of_two, tmp_path / "one", 3)
    process = alone(one, "--resume", devices=8)
    assert process.returncode == 0, process.stderr
    uneven = going_on(of_two, tmp_path / "uneven", 3)
    process = pod(uneven, "--resume", devices=2)
    assert process.returncode == 0, process.stderr
    two = going_on(whole, tmp_path / "two", 3)
    process = pod(two, "--resume")
    assert process.returncode == 0, process.stderr
    # What was kept with a row that no seed has is read as the seeds alone, by one process.
    config = configs.load(uneven / "config.json")
    program = Program(config, configs.validate(config))
    like = program.kept(program.init())
    (step, padded, damaged), (_, expected, _) = (restore(out / "checkpoints", like) for out in (uneven, whole))
    assert step == 4 and not damaged
    for a, b in zip(jax.tree.leaves(padded.policy_params), jax.tree.leaves(expected.policy_params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    for out in (one, uneven, two):
        assert len(numbers(out)) == len(numbers(whole))
        for name, expected in numbers(whole)[-1].items():
            np.testing.assert_allclose(numbers(out)[-1][name], expected, rtol=1e-4, atol=1e-4, err_msg=name)


def test_two_processes_evaluate_what_one_does(of_two, whole, tmp_path):
    """A run of two of them, and one of a single process; the first of them writes."""
    for source in (of_two, whole):
        run = shutil.copytree(source, tmp_path / source.parent.name)
        one = [sys.executable, "-m", "dynamite_jax.evaluate", "--run", str(run), "--episodes", "64", "--seed", "1"]
        process = subprocess.run(one, capture_output=True, text=True, env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"})
        assert process.returncode == 0, process.stderr
        file = run / "evaluation.json"
        expected = json.loads(file.read_text())["return"]["per_seed"]
        file.unlink()
        with socket.create_server(("localhost", 0)) as free:
            job = ["--coordinator", f"localhost:{free.getsockname()[1]}", "--processes", "2"]
        started = [
            subprocess.Popen(
                [*one, *job, "--process", str(n)],
                env=os.environ | {"JAX_NUM_CPU_DEVICES": "4"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for n in range(2)
        ]
        (table, stderr), (nothing, _) = [process.communicate(timeout=240) for process in started]
        assert [process.returncode for process in started] == [0, 0], stderr
        assert "IQM" in table and "IQM" not in nothing
        np.testing.assert_allclose(json.loads(file.read_text())["return"]["per_seed"], expected, rtol=1e-5)


LONG_CHUNKS = """
from dynamite_jax.runtime import loop
loop._long = lambda _, length: loop.LongChunk(40.0, 5) if length == 10 else None
"""


@pytest.mark.slow
def test_two_processes_begin_anew_together_with_shorter_chunks(tmp_path):
    """Where no length is named: that of the preset is 10."""
    (tmp_path / "long_chunks.py").write_text(LONG_CHUNKS)
    out = tmp_path / "run"
    line = pod_command(out, "--steps", "3200", "--plugin", "long_chunks")
    del line[line.index("--chunk") : line.index("--chunk") + 2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    process = subprocess.run(line, capture_output=True, text=True, timeout=240, env=environment)
    assert process.returncode == 0, process.stderr
    assert process.stderr.count("beginning anew with chunks of 5 meta-updates") == 1
    assert configs.load(out / "config.json").chunk == 5
    assert [record["chunk"] for record in loggers.read(out / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_signal_to_one_stops_all_and_the_run_goes_on(tmp_path):
    out = tmp_path / "run"
    process = started(out, *LONG)
    os.kill(child(process), signal.SIGTERM)
    stderr = process.communicate(timeout=240)[1]
    assert process.returncode == 75, stderr
    kept = [int(path.name) for path in (out / "checkpoints").iterdir() if path.name.isdigit()]
    assert kept == [loggers.read(out / "metrics.jsonl")[-1]["chunk"]]
    process = started(out, *LONG, "--resume")
    process.send_signal(signal.SIGINT)  # to what started them
    assert process.wait(240) == 75


def test_one_that_is_killed_ends_the_others_and_loses_nothing(tmp_path, whole):
    out = tmp_path / "run"
    process = started(out, "--steps", "160000")
    os.kill(child(process), signal.SIGKILL)
    process.communicate(timeout=240)
    assert process.returncode == 128 + signal.SIGKILL
    assert not (out / "summary.json").exists()
    process = started(out, "--steps", "160000", "--resume")
    process.terminate()
    stderr = process.communicate(timeout=240)[1]
    assert process.returncode == 75, stderr
    for found, expected in zip(numbers(out), numbers(whole), strict=False):
        np.testing.assert_allclose(found["return"], expected["return"], rtol=1e-5)


@pytest.mark.parametrize("damage", [flip, pytest.param(cut, marks=pytest.mark.slow)])
def test_damage_that_one_process_finds_is_known_to_all(of_two, tmp_path, damage):
    """It is in what the second process has written and reads."""
    out = shutil.copytree(of_two, tmp_path / "run")
    (out / "summary.json").unlink()
    steps = sorted(int(path.name) for path in (out / "checkpoints").iterdir() if path.name.isdigit())
    own = out / "checkpoints" / str(steps[-1]) / "state" / "ocdbt.process_1"
    damage(largest(own))
    process = pod(out, "--resume")
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    assert "is damaged: " in process.stderr and f"going on from chunk {steps[-2]}" in process.stderr
    assert evaluation(out)["return"]["per_seed"] == evaluation(of_two)["return"]["per_seed"]


def test_a_folder_that_is_taken_ends_all_processes_with_one_line_each(of_two):
    before = sorted(path.name for path in of_two.rglob("*"))
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    lines = pod_local.commands(2, port, [*FLAGS.split(), "--out", str(of_two)])
    started = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for line in lines]
    for process, expected in zip(started, ("already used; name a new folder", "process 0 can't go on"), strict=True):
        stderr = process.communicate(timeout=120)[1]
        errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
        assert process.returncode == 2 and "Traceback" not in stderr
        assert len(errors) == 1 and expected in errors[0]
    assert sorted(path.name for path in of_two.rglob("*")) == before


@pytest.fixture
def handlers():
    """What signals do, as before a test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    "first, code, last", [("exit 75", 75, True), ("exit 0", 0, True), ("exit 3", 3, False), ("kill -9 $$", 137, False)]
)
def test_who_is_done_waits_for_the_others_and_who_fails_ends_them(first, code, last, tmp_path, handlers):
    lines = [["sh", "-c", first], ["sh", "-c", f"sleep 2; touch {tmp_path}/last; exit 0"]]
    assert pod_local.run(lines, devices=1) == code
    time.sleep(3)
    assert (tmp_path / "last").exists() == last


def test_a_dry_run_prints_the_commands(tmp_path):
    line = pod_command(tmp_path / "run")
    line.insert(line.index("--"), "--dry-run")
    text = subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(text) == 2 and all(row.startswith("JAX_NUM_CPU_DEVICES=4 ") for row in text)
    assert text[0].endswith("--processes 2 --process 0") and not (tmp_path / "run").exists()


class Device:
    def __init__(self, process_index, number):
        self.process_index, self.number = process_index, number


@pytest.mark.parametrize(
    "seeds, devices_of_process, expected",
    [
        (8, [4, 4], [4, 4]),
        (9, [4, 4], [3, 2]),  # two each
        (2, [4, 4], [1, 1]),
        (5, [4, 4], [3, 2]),
        (9, [1] * 8, [1] * 8),  # five would do, but every process needs one
        (5, [4], [3]),
        (6, [1, 4], [1, 2]),
    ],
)
def test_devices_are_taken_of_all_processes(seeds, devices_of_process, expected):
    devices = [Device(p, n) for p, count in enumerate(devices_of_process) for n in range(count)]
    used = devices_for(seeds, devices)[:, 0]
    assert [sum(d.process_index == p for d in used) for p in range(len(expected))] == expected
    assert [d.process_index for d in used] == sorted(d.process_index for d in used)
    assert sum(blocks(seeds, len(used))) == seeds


def test_fewer_seeds_than_processes_are_refused():
    with pytest.raises(UserError, match="seeds is 1; with 2 processes it must be at least 2"):
        devices_for(1, [Device(0, 0), Device(1, 0)])


@pytest.mark.parametrize(
    "named, message",
    [
        ({"coordinator": "a:1"}, "processes is not set; coordinator, processes and process go together"),
        ({"process": 0, "processes": 2}, "coordinator is not set"),
        ({"coordinator": "a", "processes": 2, "process": 0}, "coordinator is 'a'; it must be HOST:PORT"),
        ({"coordinator": "a:x", "processes": 2, "process": 0}, "coordinator is 'a:x'"),
        ({"coordinator": "a:70000", "processes": 2, "process": 0}, "coordinator is 'a:70000'"),
        ({"coordinator": "a:1", "processes": 0, "process": 0}, "processes is 0; it must be at least 1"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "process is 2; it must be from 0 to 1"),
    ],
)
def test_processes_that_are_named_in_part_or_wrongly_are_refused(named, message):
    with pytest.raises(UserError, match=message):
        Processes(**named).join()


def test_a_folder_that_is_not_seen_is_refused(tmp_path):
    (tmp_path / "seen").touch()
    processes.check_shared(tmp_path / "seen")
    with pytest.raises(UserError, match=f"out is '{tmp_path}'; all 1 processes must see it"):
        processes.check_shared(tmp_path / "unseen")


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--distributed",), "out is not set; several processes must name the same folder"),
        (("--distributed", "--out", "OUT"), "distributed is True, and JAX finds no other processes here"),
    ],
)
def test_processes_that_nobody_finds_are_refused(flags, message, tmp_path):
    flags = [str(tmp_path / "run") if flag == "OUT" else flag for flag in flags]
    line = [sys.executable, "-m", "dynamite_jax.train", *FLAGS.split(), *flags]
    process = subprocess.run(line, capture_output=True, text=True)
    assert process.returncode == 2 and process.stderr.startswith("error: ") and message in process.stderr
    assert process.stderr.count("\n") == 1 and not (tmp_path / "run").exists()
