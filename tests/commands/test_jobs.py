"""Many runs, several at a time: which start when, what ends them, and where their output goes."""

import dataclasses
import os
import signal

import pytest

from dynamite_jax.commands import jobs, runs
from dynamite_jax.config import ConfigError


class Scripted:
    """A process that ends when it has been looked at a number of times, with a code."""

    running: list[str]
    events: list[str]
    script: dict[str, tuple[int, int]]

    def __init__(self, target, args):
        self.name, self.exitcode = args[1].name, None
        self.looks, self.code = self.script[self.name]

    def start(self):
        self.running.append(self.name)
        self.events.append(f"{self.name} beside {len(self.running) - 1}")

    def join(self, timeout):
        self.looks -= 1
        if self.looks <= 0:
            self.exitcode = self.code
            self.running.remove(self.name)
        if self.code == signal.SIGTERM and self.looks == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def terminate(self):
        self.events.append(f"{self.name} asked")
        self.looks, self.code = 1, jobs.EXIT_CODE


@pytest.fixture
def train(tiny, tmp_path, monkeypatch):
    """Trains scripted runs; what happened, in order."""
    monkeypatch.setattr(Scripted, "running", [], raising=False)
    monkeypatch.setattr(Scripted, "events", [], raising=False)
    monkeypatch.setattr(jobs.multiprocessing, "get_context", lambda kind: type("Context", (), {"Process": Scripted}))
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # so that it is as before afterwards

    def train(script, at_once):
        monkeypatch.setattr(Scripted, "script", script, raising=False)
        try:
            jobs.train({name: tiny for name in script}, tmp_path, at_once)
            return Scripted.events, 0
        except SystemExit as stop:
            return Scripted.events, stop.code

    return train


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


@pytest.mark.parametrize("killed", [-9, -15])
def test_a_run_that_is_killed_is_none_that_ended(train, killed):
    assert train({"a": (1, killed), "b": (1, 0)}, 1) == (["a beside 0"], -killed)


def test_sigterm_is_passed_on_once(train):
    before = signal.getsignal(signal.SIGTERM)
    events, code = train({"a": (2, signal.SIGTERM), "b": (9, 0), "c": (1, 0)}, 2)
    assert events == ["a beside 0", "b beside 1", "a asked", "b asked"]
    assert code == jobs.EXIT_CODE and not Scripted.running
    assert signal.getsignal(signal.SIGTERM) == before


def test_each_of_several_runs_has_its_log(tiny, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    broken = dataclasses.replace(tiny, method="markov", env="probe_none")
    configs_of = {"mine": dataclasses.replace(tiny, method="markov"), "broken": broken}
    with pytest.raises(SystemExit) as stop:
        jobs.train(configs_of, tmp_path, 2)
    assert stop.value.code == 2
    assert (tmp_path / "mine" / "summary.json").is_file()
    assert "summary in" in (tmp_path / "mine.log").read_text()
    (line,) = (tmp_path / "broken.log").read_text().splitlines()
    assert line.startswith("error: env is 'probe_none'")
    shown = capfd.readouterr().err.splitlines()
    assert shown[:2] == [
        f"run 1 of 2: mine, see {tmp_path / 'mine.log'}",
        f"run 2 of 2: broken, see {tmp_path / 'broken.log'}",
    ]
    assert sorted(shown[2:]) == ["broken: exit code 2", "mine: done"]


def test_their_number_is_checked_first(tiny, tmp_path):
    with pytest.raises(ConfigError, match="jobs is 0; it must be 1 or more"):
        runs.complete({"a": tiny}, tmp_path / "runs", tmp_path / "table.json", at_once=0)
    assert not (tmp_path / "runs").exists()
