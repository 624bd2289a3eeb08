"""Whatever happens to a run, it goes on bit for bit from the newest valid state, or stops with one clear line."""

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import races
from conftest import assert_same
from damage import cut, empty, files, foreign, largest
from dynamite_jax import config as configs
from dynamite_jax.runtime import loggers
from dynamite_jax.runtime.checkpoints import CheckpointError
from dynamite_jax.runtime.program import Program
from restoring import restore

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

PART = float(os.environ.get("PART", "1"))  # of the rounds below
KILLS, FLIPS, RACES = (math.ceil(PART * rounds) for rounds in (20, 50, 300))
CHUNK = 5 * 8 * 20  # steps
FLAGS = "--env probe_match --env-options horizon=20 --seeds 1 --num-envs 8 --chunk 5 --eval-episodes 64"
FLAGS += " --checkpoint-every 1 --no-tensorboard --ppo.minibatches 2 --network.hidden 8 --vae.minibatches 2"
UNSHARE = ["unshare", "--mount"] + ["--map-root-user"] * (os.name != "nt" and os.getuid() != 0)


def command(out, *more, chunks=20):
    return [
        sys.executable,
        "-m",
        "dynamite_jax.train",
        *FLAGS.split(),
        "--steps",
        str(chunks * CHUNK),
        "--out",
        out,
        *more,
    ]


def run(out, *more, chunks=20, cwd=None, **environment):
    line = [str(word) for word in command(out, *more, chunks=chunks)]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=os.environ | environment, timeout=300)


def finished(*arguments, **named):
    """A run that must come to its end."""
    process = run(*arguments, **named)
    assert process.returncode == 0, process.stderr
    return process


def steps(out):
    return sorted(int(path.name) for path in (out / "checkpoints").glob("*") if path.name.isdigit())


def evaluation(out):
    return json.loads((out / "summary.json").read_text())["eval"]


def same_end(a, b):
    """Whether two runs ended with the same state, metrics and evaluation, bit for bit."""
    last = [out / "checkpoints" / str(steps(out)[-1]) / "digests" / "metadata" for out in (a, b)]
    digests = [json.loads(path.read_text()) for path in last]
    times = ("wall_s", "steps_per_s")
    records = [
        [{k: v for k, v in record.items() if k not in times} for record in loggers.read(out / "metrics.jsonl")]
        for out in (a, b)
    ]
    return digests[0] == digests[1] and records[0] == records[1] and evaluation(a) == evaluation(b)


@pytest.fixture(scope="module")
def through(tmp_path_factory):
    """A run that nothing happened to; it also warms the cache."""
    out = tmp_path_factory.mktemp("through") / "run"
    finished(out)
    return out


def unfinished(through, target):
    """A copy of it as it was before its summary was written."""
    shutil.copytree(through, target)
    (target / "summary.json").unlink()
    return target


def test_killed_at_random_moments_it_ends_as_if_it_never_was(tmp_path, capsys):
    """Chunks are short and each is kept, so that kills meet saves."""
    chunks, out, chance = 300, tmp_path / "killed", random.Random(0)
    finished(tmp_path / "whole", chunks=chunks)
    kills = 0
    while kills < KILLS:
        before = steps(out) if out.exists() else []
        resume = ["--resume"] if (out / "config.json").exists() else []
        process = subprocess.Popen(list(map(str, command(out, *resume, chunks=chunks))), stderr=subprocess.DEVNULL)
        newest = before[-1] if before else 0
        while process.poll() is None and not (out.exists() and steps(out) and steps(out)[-1] > newest):
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.5))
        assert process.poll() is None, "the run is too short for so many kills"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert steps(out)[-1] > newest  # nothing that was kept is gone
        kills += 1
    finished(out, "--resume", chunks=chunks)
    assert same_end(tmp_path / "whole", out)
    with capsys.disabled():
        print(f"\nkills: {kills} of {KILLS}")


@pytest.fixture(scope="module")
def like(through):
    """A state of the run."""
    config = configs.load(through / "config.json")
    program = Program(config, configs.validate(config))
    return program.kept(program.init())


@pytest.fixture(scope="module")
def states(through, like, tmp_path_factory):
    """The two states that are kept, by their steps."""
    older, newer = steps(through)
    newest = restore(through / "checkpoints", like)
    assert newest[0] == newer
    place = tmp_path_factory.mktemp("older") / "checkpoints"
    shutil.copytree(through / "checkpoints", place)
    shutil.rmtree(place / str(newer))
    return {newer: newest[1], older: restore(place, like)[1]}


def test_a_flipped_byte_never_comes_back(through, like, states, tmp_path, capsys):
    chance, sent_back = random.Random(1), 0
    newer = max(states)
    for number in range(FLIPS):
        place = tmp_path / str(number)
        shutil.copytree(through / "checkpoints", place)
        sizes = {path: path.stat().st_size for path in files(place / str(newer)) if path.stat().st_size}
        path = chance.choices(list(sizes), weights=list(sizes.values()))[0]
        data = bytearray(path.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        step, state, damaged = restore(place, like)
        assert_same(state, states[step])
        assert len(damaged) == (step != newer)
        sent_back += step != newer
        shutil.rmtree(place)
    with capsys.disabled():
        print(f"\nflips: {FLIPS} of {FLIPS}, {sent_back} of them went back a step")


@pytest.mark.parametrize("damage", [cut, empty, foreign, Path.unlink], ids=["cut", "empty", "foreign", "missing"])
def test_damaged_files_send_back_or_change_nothing(through, like, states, tmp_path, damage):
    for number, name in enumerate(files(through / "checkpoints" / str(max(states)))):
        place = tmp_path / str(number)
        shutil.copytree(through / "checkpoints", place)
        damage(place / name.relative_to(through / "checkpoints"))
        step, state, _ = restore(place, like)
        assert_same(state, states[step])
        assert str(min(states)) in {path.name for path in place.iterdir()}
        shutil.rmtree(place)


@pytest.mark.parametrize("damage", [cut, empty, foreign, Path.unlink], ids=["cut", "empty", "foreign", "missing"])
def test_a_run_without_a_valid_state_ends_with_one_line(through, like, tmp_path, damage):
    place = tmp_path / "checkpoints"
    shutil.copytree(through / "checkpoints", place)
    for step in steps(tmp_path):
        damage(place / str(step) / "digests" / "metadata")
    with pytest.raises(CheckpointError, match="no older valid one is left") as error:
        restore(place, like)
    assert "\n" not in str(error.value) and len(steps(tmp_path)) == 2


@pytest.mark.parametrize("damage", [cut, empty, foreign, Path.unlink], ids=["cut", "empty", "foreign", "missing"])
def test_a_damaged_state_is_one_line_and_the_run_goes_on(through, tmp_path, damage):
    out = unfinished(through, tmp_path / "run")
    state = out / "checkpoints" / str(steps(out)[-1]) / "state"
    damage(largest(state))
    process = finished(out, "--resume")
    assert process.stderr.count("is damaged: ") == 1 and "Traceback" not in process.stderr, process.stderr
    assert evaluation(out) == evaluation(through)


@pytest.mark.parametrize("name, code", [("metrics.jsonl", 0), ("origins.jsonl", 0), ("config.json", 2)])
@pytest.mark.parametrize("damage", [cut, empty], ids=["cut", "empty"])
def test_other_files_of_a_run_are_made_anew_or_named(through, tmp_path, name, code, damage):
    out = unfinished(through, tmp_path / "run")
    damage(out / name)
    process = run(out, "--resume")
    assert process.returncode == code, process.stderr
    if code:
        assert re.fullmatch(r"error: [^\n]*config.json[^\n]*\n", process.stderr), process.stderr
        assert steps(out) == steps(through)
    else:
        assert evaluation(out) == evaluation(through)


@pytest.mark.skipif(not races.CAN_RACE, reason="needs fork")
def test_of_processes_that_race_for_a_folder_one_gets_it(tmp_path, capsys):
    rounds = races.outcomes(tmp_path, RACES, "new", "locks")
    assert all(first == "claimed" and second.startswith("refused") for first, second in rounds)
    with capsys.disabled():
        print(f"\nraces: {len(rounds)} of {RACES}")


READ_ONLY = """
mkdir disk && mount -t tmpfs -o size=16m tmpfs disk || exit 99
cp -r {run} disk/run && mount -o remount,ro disk
{resume} disk/run --resume; echo $? > code
mount -o remount,rw disk
{resume} disk/run --resume && cp disk/run/summary.json .
"""


def test_a_read_only_folder_is_one_line(through, tmp_path):
    out = unfinished(through, tmp_path / "run")
    resume = " ".join([f"env PYTHONPATH={os.pathsep.join(sys.path)}", *map(str, command("")[:-1])])
    script = READ_ONLY.format(run=out, resume=resume)
    process = subprocess.run([*UNSHARE, "sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "code").read_text() == "2\n"
    assert len(re.findall(r"^error: out is 'disk/run.*Read-only file system$", process.stderr, re.MULTILINE)) == 1
    assert evaluation(tmp_path) == evaluation(through)


def test_a_damaged_compilation_cache_changes_nothing(through, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    finished(tmp_path / "first", JAX_COMPILATION_CACHE_DIR=str(cache))
    for path in files(cache):
        cut(path)
    finished(tmp_path / "second", JAX_COMPILATION_CACHE_DIR=str(cache))
    assert same_end(through, tmp_path / "first") and same_end(through, tmp_path / "second")


def test_two_runs_share_a_cache_from_the_start(through, tmp_path):
    (tmp_path / "cache").mkdir()
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    outs = [tmp_path / "a", tmp_path / "b"]
    both = [subprocess.Popen(list(map(str, command(out))), stderr=subprocess.DEVNULL, env=environment) for out in outs]
    assert [process.wait(300) for process in both] == [0, 0]
    assert all(same_end(through, out) for out in outs)


BACKWARDS = """
import time
now, name = time.time, time.strftime
time.time = lambda: now() - 86400.0
time.strftime = lambda form, *when: name(form, *(when or (time.gmtime(time.time()),)))
"""


def test_a_clock_that_is_set_back_changes_nothing(through, tmp_path):
    (tmp_path / "backwards.py").write_text(BACKWARDS)
    out = unfinished(through, tmp_path / "run")
    shutil.rmtree(out / "checkpoints" / str(steps(out)[-1]))
    finished(out, "--resume", "--plugin", "backwards", cwd=tmp_path)
    assert same_end(through, out)


POISON = """
import jax.numpy as jnp
from dynamite_jax.algorithms import belief_learning, meta_ppo
update, play, apply = meta_ppo.MetaPPO.update, meta_ppo.play, meta_ppo.optax.apply_updates
now = []

def poisoned(x):
    return jnp.where(now[-1] == 37, jnp.nan, x)

def counted(self, env, hyper, state):
    now.append(state.meta_updates)
    return update(self, env, hyper, state)

def played(*arguments, **named):
    rollout, *rest = play(*arguments, **named)
    return rollout.replace(**{WHAT: poisoned(getattr(rollout, WHAT))}) if WHAT != "gradient" else rollout, *rest

def applied(params, change):
    return meta_ppo.jax.tree.map(poisoned, apply(params, change)) if WHAT == "gradient" else apply(params, change)

meta_ppo.MetaPPO.update, meta_ppo.play = counted, played

class Optax:
    apply_updates = staticmethod(applied)
    def __getattr__(self, name):
        return getattr(optax, name)

optax = meta_ppo.optax
meta_ppo.optax = belief_learning.optax = Optax()
"""


NAMES = {"gradient": "belief loss", "reward": "reward", "observation": "observation"}


@pytest.fixture(params=NAMES)
def poisoned(request, tmp_path):
    """A plugin by which something is not a number in the 38th meta-update, of the eighth chunk; its first name."""
    (tmp_path / "poison.py").write_text(f"WHAT = {request.param!r}\n{POISON}")
    return NAMES[request.param]


def test_what_is_not_a_number_stops_the_run_and_is_not_kept(through, tmp_path, poisoned):
    out = tmp_path / "run"
    process = run(out, "--plugin", "poison", cwd=tmp_path)
    assert process.returncode == 3 and "Traceback" not in process.stderr
    [line] = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    said = f"{poisoned} of seed 0 not finite in chunk 8, meta-update 38; the last good checkpoint is kept"
    assert line == f"error: {said}; see {out}"
    assert steps(out)[-1] == 7 and len(loggers.read(out / "metrics.jsonl")) == 7
    finished(out, "--resume")  # without the poison
    assert same_end(through, out)


@pytest.mark.parametrize(("chunks", "code"), [(21, 0), (20, 3)])
def test_what_is_not_a_number_is_left_out_where_that_is_asked_for(tmp_path, poisoned, chunks, code):
    """From 1 % of the meta-updates on the run has failed, though it comes to its end."""
    process = run(tmp_path / "run", "--plugin", "poison", "--not-finite", "skip", chunks=chunks, cwd=tmp_path)
    assert process.returncode == code and "Traceback" not in process.stderr, process.stderr
    warning = "warning: 1 of 5 meta-updates of seed 0 left out in chunk 8: something was not finite"
    assert process.stderr.count("warning: ") == 1 and warning in process.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["left_out"], summary["meta_updates"]) == ([1], 5 * chunks)
    if code:
        line = "error: 1 of 100 meta-updates of seed 0 were left out, and a run has failed from 1% on; its summary is"
        assert line in process.stderr
