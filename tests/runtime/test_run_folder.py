"""A run folder is claimed by one process, locked while it lives, and left alone once the run is finished."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import races
from dynamite_envs.errors import FallbackWarning, UserError
from dynamite_jax.commands import train
from dynamite_jax.config import Config
from dynamite_jax.runtime import lock, run_folder, training


@pytest.mark.skipif(not races.CAN_RACE, reason="needs fork")
@pytest.mark.parametrize("how", ["new", "resume"])
@pytest.mark.parametrize("locks", ["locks", "no locks"])
def test_of_two_processes_that_race_for_a_folder_one_gets_it(tmp_path, how, locks):
    for first, second in races.outcomes(tmp_path, 24, how, locks):
        assert first == "claimed" and f" on {socket.gethostname()}, since " in second and "process" in second


def test_a_folder_in_use_is_refused_with_host_and_process(tmp_path):
    config, out = Config(), tmp_path / "run"
    with run_folder.claimed(out, config, False):
        for resume in (True, False):
            code = (
                "import sys; from pathlib import Path; from dynamite_jax.config import Config\n"
                "from dynamite_jax.runtime import run_folder\n"
                f"with run_folder.claimed(Path({str(out)!r}), Config(), {resume}): pass"
            )
            process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            assert f"process {os.getpid()} on {socket.gethostname()}, since" in process.stderr.splitlines()[-1]
    with run_folder.claimed(out, config, True):
        pass


def test_a_killed_process_leaves_no_lock(tmp_path):
    code = (
        "import os; from pathlib import Path; from dynamite_jax.runtime import lock\n"
        f"with lock.lock(Path({str(tmp_path)!r})): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert (tmp_path / lock.NAME).read_text()  # it died with its name on the door
    with lock.lock(tmp_path):
        pass


def test_a_file_stands_for_a_lock_where_there_are_none(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(lock, "_lock", refuse)
    claim = tmp_path / lock.CLAIM
    held = f"in use by process {os.getpid()} on {socket.gethostname()}, since .*, remove {claim}$"
    with pytest.warns(FallbackWarning, match="is on a file system without locks"), lock.lock(tmp_path):
        with pytest.raises(lock.Locked, match=held), lock.lock(tmp_path):
            pass
        with pytest.raises(lock.Locked, match=held):
            lock.check_free(tmp_path)
    assert not claim.exists()
    lock.check_free(tmp_path)


@pytest.mark.parametrize("out", ["gs://bucket/run", "s3://bucket/run"])
def test_a_bucket_is_refused(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = f"out is '{out.replace('//', '/')}'; it must be a folder of a file system"
    with pytest.raises(UserError, match=message), run_folder.claimed(Path(out), Config(), False):
        pass
    assert not list(tmp_path.iterdir())


def test_the_lock_is_let_go_when_the_run_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt), lock.lock(tmp_path):
        raise KeyboardInterrupt
    lock.check_free(tmp_path)


def test_runs_that_were_given_no_folder_never_share_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder.time, "strftime", lambda _: "20260101-000000")
    claimed = []
    monkeypatch.setattr(sys, "argv", ["train", "--env", "probe_match"])

    def claim_only(config: Config, out: Path, **_: bool) -> dict:
        with run_folder.claimed(out, config, False):
            claimed.append(out.name)
        return {}

    monkeypatch.setattr(training, "train", claim_only)
    for _ in range(3):
        train.main()
    assert claimed == [f"probe_match_dynamite_20260101-000000{end}" for end in ("", "-2", "-3")]


def test_a_finished_run_is_left_as_it_is(tiny, tmp_path, capfd):
    summary = training.train(tiny, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    capfd.readouterr()
    assert training.train(tiny, tmp_path / "run", resume=True) == json.loads(json.dumps(summary))
    out, err = capfd.readouterr()
    assert f"the run in {tmp_path / 'run'} is finished" in " ".join(err.split()) and out == ""
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
