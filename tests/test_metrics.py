"""Statistics over seeds, and the metrics file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dynamite_jax.runtime import metrics


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0], 3.0),
        ([1.0, 2.0], 1.5),
        ([1.0, 2.0, 6.0], 3.0),
        ([0.0, 1.0, 3.0, 100.0], 2.0),
        ([100.0, 3.0, 0.0, 1.0, 5.0], 3.0),
        ([-9.0, -9.0, 1.0, 2.0, 3.0, 4.0, 9.0, 99.0], 2.5),
    ],
)
def test_the_interquartile_mean_is_the_mean_of_the_middle_half(values, expected):
    assert metrics.interquartile_mean(values) == pytest.approx(expected)


@pytest.mark.parametrize("n", [4, 5, 10, 12, 37])
def test_the_interquartile_mean_is_that_of_scipy(n):
    values = np.random.default_rng(n).normal(size=n) ** 3
    assert metrics.interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25))
    middle = np.sort(values)[n // 4 : n - n // 4]
    assert metrics.interquartile_mean(values) == pytest.approx(middle.mean())


def test_whole_numbers_are_averaged_as_real_ones():
    assert metrics.interquartile_mean([1, 2]) == 1.5
    assert isinstance(metrics.interquartile_mean(np.array([1, 2], np.float32)), float)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 20])
def test_the_bootstrap_interval_contains_the_interquartile_mean(n):
    values = np.random.default_rng(n).normal(size=n)
    low, high = metrics.bootstrap_interval(values)
    assert values.min() <= low <= metrics.interquartile_mean(values) <= high <= values.max()
    assert low < high


def test_the_bootstrap_interval_narrows_with_the_seeds_and_widens_with_the_level():
    values = np.random.default_rng(0).normal(size=400)
    widths = [np.diff(metrics.bootstrap_interval(values[:n]))[0] for n in (10, 40, 400)]
    assert widths[0] > widths[1] > widths[2]
    wide, narrow = (np.diff(metrics.bootstrap_interval(values[:20], level))[0] for level in (0.99, 0.5))
    assert wide > narrow


def test_the_bootstrap_interval_is_as_wide_as_theory_says():
    values = np.random.default_rng(0).normal(size=400)
    low, high = metrics.bootstrap_interval(values)
    resampled = stats.bootstrap(
        (values,), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis), method="percentile", n_resamples=4000, rng=1
    )
    expected = resampled.confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.015)


def test_the_bootstrap_interval_of_one_seed_is_a_point():
    assert metrics.bootstrap_interval([2.5]) == [2.5, 2.5]


def test_the_bootstrap_interval_is_reproducible():
    values = np.random.default_rng(0).normal(size=30)
    assert metrics.bootstrap_interval(values) == metrics.bootstrap_interval(values)


def test_a_summary_holds_every_seed_and_is_json():
    summary = metrics.summarise(np.array([1.0, 2.0, 3.0, 10.0], np.float32))
    assert summary["per_seed"] == [1.0, 2.0, 3.0, 10.0]
    assert summary["iqm"] == 2.5
    assert summary["ci95"] == metrics.bootstrap_interval([1.0, 2.0, 3.0, 10.0])
    assert json.loads(json.dumps(summary)) == summary


# -- metrics.jsonl -----------------------------------------------------------------------------------------------


def record(chunk: int) -> dict[str, Any]:
    return {"chunk": chunk, "env_steps": 100 * chunk, "return": [0.5 * chunk, 1.0]}


def log(folder: Path, chunks_done: int = 0, tensorboard: bool = False) -> metrics.Log:
    return metrics.Log(folder, chunks_done, tensorboard=tensorboard, wandb=False, config={})


def write(folder: Path, chunks: range, chunks_done: int = 0) -> Path:
    writer = log(folder, chunks_done)
    for chunk in chunks:
        writer.write(record(chunk))
    writer.close()
    return folder / "metrics.jsonl"


def test_records_come_back_as_they_were_written(tmp_path):
    assert metrics.read(write(tmp_path, range(1, 4))) == [record(1), record(2), record(3)]


def test_a_record_is_on_disk_as_soon_as_it_is_written(tmp_path):
    writer = log(tmp_path)
    writer.write(record(1))
    assert metrics.read(tmp_path / "metrics.jsonl") == [record(1)]
    writer.close()


def test_no_file_means_no_records(tmp_path):
    assert metrics.read(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("cut", [1, 2, 10, 40])
def test_a_last_line_cut_short_is_left_out(tmp_path, cut):
    path = write(tmp_path, range(1, 4))
    path.write_text(path.read_text()[:-cut])
    assert metrics.read(path) == [record(1), record(2), record(3)][: 3 if cut == 1 else 2]


def test_chunks_beyond_the_checkpoint_are_cut_off_when_the_run_goes_on(tmp_path):
    write(tmp_path, range(1, 6))
    path = write(tmp_path, range(4, 5), chunks_done=3)
    assert [r["chunk"] for r in metrics.read(path)] == [1, 2, 3, 4]


def test_a_line_cut_short_does_not_swallow_the_next_record(tmp_path):
    path = write(tmp_path, range(1, 4))
    path.write_text(path.read_text()[:-10])
    write(tmp_path, range(3, 5), chunks_done=2)
    assert metrics.read(path) == [record(1), record(2), record(3), record(4)]


def test_a_new_run_starts_an_empty_file(tmp_path):
    write(tmp_path, range(1, 6))
    assert metrics.read(write(tmp_path, range(0), chunks_done=0)) == []


def test_tensorboard_events_are_written_where_wanted(tmp_path):
    writer = log(tmp_path, tensorboard=True)
    writer.write(record(1))
    writer.close()
    assert list((tmp_path / "tensorboard").iterdir())
    write(tmp_path / "tensorboard", range(1))
    (tmp_path / "none").mkdir()
    write(tmp_path / "none", range(1, 2))
    assert not (tmp_path / "none" / "tensorboard").exists()
