"""The metrics file and TensorBoard's events."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dynamite_jax.runtime import loggers


def record(chunk: int) -> dict[str, Any]:
    return {"chunk": chunk, "env_steps": 100 * chunk, "return": [0.5 * chunk, 1.0]}


def log(folder: Path, completed_chunks: int = 0, tensorboard: bool = False) -> loggers.Log:
    return loggers.Log(folder, completed_chunks, tensorboard=tensorboard, wandb=False, config={})


def write(folder: Path, chunks: range, completed_chunks: int = 0) -> Path:
    writer = log(folder, completed_chunks)
    for chunk in chunks:
        writer.write(record(chunk))
    writer.close()
    return folder / "metrics.jsonl"


def test_records_come_back_as_they_were_written(tmp_path):
    assert loggers.read(write(tmp_path, range(1, 4))) == [record(1), record(2), record(3)]


def test_a_record_is_on_disk_as_soon_as_it_is_written(tmp_path):
    writer = log(tmp_path)
    writer.write(record(1))
    assert loggers.read(tmp_path / "metrics.jsonl") == [record(1)]
    writer.close()


def test_no_file_means_no_records(tmp_path):
    assert loggers.read(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("cut", [1, 2, 10, 40])
def test_a_last_line_cut_short_is_left_out(tmp_path, cut):
    path = write(tmp_path, range(1, 4))
    path.write_text(path.read_text()[:-cut])
    assert loggers.read(path) == [record(1), record(2), record(3)][: 3 if cut == 1 else 2]


def test_chunks_beyond_the_checkpoint_are_cut_off_when_the_run_goes_on(tmp_path):
    write(tmp_path, range(1, 6))
    path = write(tmp_path, range(4, 5), completed_chunks=3)
    assert [r["chunk"] for r in loggers.read(path)] == [1, 2, 3, 4]


def test_a_line_cut_short_does_not_swallow_the_next_record(tmp_path):
    path = write(tmp_path, range(1, 4))
    path.write_text(path.read_text()[:-10])
    write(tmp_path, range(3, 5), completed_chunks=2)
    assert loggers.read(path) == [record(1), record(2), record(3), record(4)]


def test_a_new_run_starts_an_empty_file(tmp_path):
    write(tmp_path, range(1, 6))
    assert loggers.read(write(tmp_path, range(0), completed_chunks=0)) == []


def test_tensorboard_events_are_written_where_wanted(tmp_path):
    writer = log(tmp_path, tensorboard=True)
    writer.write(record(1))
    writer.close()
    assert list((tmp_path / "tensorboard").iterdir())
    write(tmp_path / "tensorboard", range(1))
    (tmp_path / "none").mkdir()
    write(tmp_path / "none", range(1, 2))
    assert not (tmp_path / "none" / "tensorboard").exists()


def test_a_run_that_goes_on_is_the_same_run_to_weights_and_biases(tmp_path, monkeypatch):
    begun = []

    def init(**options):
        begun.append(options)
        return SimpleNamespace(log=lambda *_, **__: None, finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    for folder in ("a", "b", "a"):
        (tmp_path / folder).mkdir(exist_ok=True)
        loggers.Log(tmp_path / folder, 0, tensorboard=False, wandb=True, config={}).close()
    first, other, again = (options["id"] for options in begun)
    assert first == again != other and all(options["resume"] == "allow" for options in begun)
