"""Many runs, several at a time: which start when, what ends them, and where their output goes."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest

from dynamite_envs.errors import UserError
from dynamite_jax.commands import ablations, jobs, runs, sweep_p, table
from dynamite_jax.config import ConfigError
from dynamite_jax.runtime import interruption, loggers


class Scripted:
    """A process that ends when it has been looked at a number of times, with a code."""

    running: list[str]
    events: list[str]
    script: dict[str, tuple[int, int]]
    asks: signal.Signals | None = None

    def __init__(self, target, args):
        self.name = args[1].name
        self.looks, self.code = self.script[self.name]
        self.asked = False

    def start(self):
        self.running.append(self.name)
        self.events.append(f"{self.name} beside {len(self.running) - 1}")

    @property
    def exitcode(self):
        self.looks -= 1
        if self.looks > 0:
            if self.asks and self.name == "a" and not self.asked:
                self.asked = True  # it ends as if it had not been asked
                os.kill(os.getpid(), self.asks)
            return None
        self.running.remove(self.name)
        return self.code

    def terminate(self):
        self.events.append(f"{self.name} told")
        self.code = interruption.EXIT_CODE


@pytest.fixture
def train(tiny, tmp_path, monkeypatch):
    """Trains scripted runs; what happened, in order, and the exit code."""
    monkeypatch.setattr(Scripted, "running", [], raising=False)
    monkeypatch.setattr(Scripted, "events", [], raising=False)
    monkeypatch.setattr(jobs.multiprocessing, "get_context", lambda kind: type("Context", (), {"Process": Scripted}))
    monkeypatch.setattr(jobs, "POLL_S", 0.0)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")  # so that it is as before afterwards
    guards = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}

    def train(script, at_once, asks=None):
        monkeypatch.setattr(Scripted, "script", script, raising=False)
        monkeypatch.setattr(Scripted, "asks", asks)
        try:
            jobs.train({name: tiny for name in script}, tmp_path, at_once)
            return Scripted.events, 0
        except SystemExit as stop:
            return Scripted.events, stop.code

    yield train
    for number, guard in guards.items():
        signal.signal(number, guard)


def test_the_next_run_starts_where_one_has_ended(train):
    events, code = train({"a": (3, 0), "b": (1, 0), "c": (1, 0), "d": (1, 0)}, 2)
    assert events == ["a beside 0", "b beside 1", "c beside 1", "d beside 1"] and code == 0
    events.clear()
    events, code = train({"a": (3, 0), "b": (1, 0)}, 1)
    assert events == ["a beside 0", "b beside 0"] and code == 0


def test_a_run_that_stops_lets_those_beside_it_end_and_no_other_begin(train):
    events, code = train({"a": (4, 0), "b": (1, 3), "c": (2, 2), "d": (1, 0)}, 3)
    assert events == ["a beside 0", "b beside 1", "c beside 2"]
    assert code == 3 and not Scripted.running


def test_a_run_that_is_killed_is_none_that_ended(train, capfd):
    assert train({"a": (1, -signal.SIGKILL), "b": (1, 0)}, 1) == (["a beside 0"], 137)
    assert capfd.readouterr().err.splitlines() == ["run 1 of 2: a", "a: exit code 137"]


@pytest.mark.parametrize("asks, passed_on", [(signal.SIGTERM, ["a told", "b told"]), (signal.SIGINT, [])])
def test_sigterm_is_passed_on_once(asks, passed_on, train):
    before = signal.getsignal(asks)
    events, code = train({"a": (3, 0), "b": (5, 0), "c": (1, 0)}, 2, asks)
    assert events == ["a beside 0", "b beside 1", *passed_on]
    assert code == interruption.EXIT_CODE and not Scripted.running
    assert signal.getsignal(asks) == before


@pytest.mark.parametrize("at_once, given, kept", [(1, None, None), (2, None, "false"), (2, "true", "true")])
def test_runs_beside_each_other_take_memory_as_they_need_it(at_once, given, kept, train, monkeypatch):
    if given is None:
        monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE")
    train({"a": (1, 0)}, at_once)
    assert os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE") == kept


def test_each_of_several_runs_has_its_log(tiny, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    broken = dataclasses.replace(tiny, method="markov", env="probe_none")
    configs_of = {"mine": dataclasses.replace(tiny, method="markov"), "broken": broken}
    with pytest.raises(SystemExit) as stop:
        jobs.train(configs_of, tmp_path, 2)
    assert stop.value.code == 2
    assert (tmp_path / "mine" / "summary.json").is_file()
    assert "summary in" in (tmp_path / "mine.log").read_text()
    assert (tmp_path / "broken.log").read_text().splitlines()[-1].startswith("error: env is 'probe_none'")
    shown = capfd.readouterr().err.splitlines()
    assert shown[:2] == [
        f"run 1 of 2: mine, see {tmp_path / 'mine.log'}",
        f"run 2 of 2: broken, see {tmp_path / 'broken.log'}",
    ]
    assert sorted(shown[2:]) == ["broken: exit code 2", "mine: done"]


def test_runs_that_a_whole_group_is_asked_to_end_keep_their_state(tmp_path):
    """SIGTERM reaches a run twice then: from who sends it, and from what started the run."""
    flags = "--env probe_match --methods markov --seeds 1 --steps 40000000 --allow-dirty --jobs 2 --out out --runs ."
    command = [sys.executable, "-m", "dynamite_jax", "table", *flags.split(" ")]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    run = tmp_path / "probe_match" / "markov"
    for _ in range(600):
        if (run / "metrics.jsonl").is_file() and loggers.read(run / "metrics.jsonl"):
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == interruption.EXIT_CODE, stderr
    assert "markov: exit code 75" in stderr and any((run / "checkpoints").iterdir())


def test_a_folder_that_can_not_be_made_is_one_line(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"runs is '.*file/runs', which can't be written"):
        jobs.train({"a": tiny}, tmp_path / "file" / "runs", 2)


def test_their_number_is_checked_first(tiny, tmp_path):
    with pytest.raises(ConfigError, match="jobs is 0; it must be 1 or more"):
        runs.complete({"a": tiny}, tmp_path / "runs", tmp_path / "table.json", at_once=0)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", [table, ablations, sweep_p])
def test_commands_train_as_many_at_once_as_they_are_told(command, tmp_path, monkeypatch):
    class Trained(Exception):
        pass

    def train(run_configs, root, at_once):
        raise Trained(at_once)

    monkeypatch.setattr(jobs, "train", train)
    flags = ["--seeds", "2", "--steps", "30000", "--allow-dirty", "--jobs", "7", "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr("sys.argv", ["command", *flags, "--out", str(tmp_path)])
    with pytest.raises(Trained) as trained:
        command.main()
    assert trained.value.args == (7,)
