"""A run's folder: claimed at the start, locked while the run goes on, marked as finished by its summary."""

import contextlib
import dataclasses
import itertools
import json
import re
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax.config import Config, ConfigError
from dynamite_jax.errors import writing
from dynamite_jax.runtime import devices, lock, loggers, provenance
from dynamite_jax.runtime.loggers import Record

SUMMARY = "summary.json"
ORIGINS = "origins.jsonl"
VIDEO, BELIEFS = "video.gif", "beliefs.png"  # pictures, if they are drawn


class Taken(UserError):
    """The folder is already in use."""


class Finished(Exception):
    """The run is complete: there is nothing to resume."""


def default_names(config: Config) -> Iterator[Path]:
    """Default folders of a run: runs/ENV_METHOD_TIME, and with a number where that is taken."""
    first = f"{config.env}_{config.method}_{time.strftime('%Y%m%d-%H%M%S')}"
    yield Path("runs") / first
    for number in itertools.count(2):
        yield Path("runs") / f"{first}-{number}"


@contextlib.contextmanager
def claimed(out: Path, config: Config, resume: bool) -> Iterator[None]:
    """Claim the folder for this process while the block runs: a new one, or that of the run to resume.

    Raises:
        Finished: the run to resume is complete.
        Taken: the folder of a new run is not empty.
        Locked: another process trains in it.
        ConfigError: it can't be written, or the run to resume is missing or of another config.
    """
    if re.match("[a-z][a-z0-9+.-]+:/", str(out)):
        raise ConfigError(
            f"out is {str(out)!r}; it must be a folder of a file system, so mount the bucket and name that"
        )
    check = partial(_check_resumable, out, config) if resume else partial(_check_empty, out)
    check()
    with contextlib.ExitStack() as stack:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock.lock(out))
        check()  # another process may have used it since
        if not resume:
            with writing(out):
                configs.save(config, out / "config.json")
        yield


def continued(config: Config, out: Path) -> Config:
    """The config of a run that goes on, its physics computed as so far unless it is named.

    Raises:
        ConfigError: the folder's config can't be read.
    """
    path = out / "config.json"
    if config.physics.impl != "auto" or not path.is_file():
        return config
    return dataclasses.replace(config, physics=configs.load(path).physics)


def _check_empty(out: Path) -> None:
    with writing(out):  # a name that is too long can't even be looked for
        exists = out.exists()
    if exists and (not out.is_dir() or any(path.name not in (lock.NAME, lock.CLAIM) for path in out.iterdir())):
        lock.check_free(out)
        raise Taken(f"out is {str(out)!r}, which is already used; name a new folder, or add --resume to go on")


def _check_resumable(out: Path, config: Config) -> None:
    path = out / "config.json"
    if not path.is_file():
        raise ConfigError(f"out is {str(out)!r}; to resume it must be a run folder, one with a config.json")
    if changed := configs.differences(configs.load(path), config):
        raise ConfigError(f"resume: the run in {out} has another config; {'; '.join(changed)}")
    if (out / SUMMARY).is_file():
        raise Finished(f"the run in {out} is finished; nothing is left to do")


def read_config(run: Path) -> Config:
    """The config of a run.

    Raises:
        UserError: there is no run, or its config can't be read.
    """
    if not (run / "config.json").is_file():
        raise UserError(f"run is {str(run)!r}; it must be a run folder, one with a config.json")
    return configs.load(run / "config.json")


def check_several(runs: Sequence[Path], labels: Sequence[str]) -> None:
    """Refuse no runs at all, and labels that are not as many, unless there are none.

    Raises:
        UserError: says how many there are.
    """
    if not runs:
        raise ConfigError("runs are none; name one run folder or more")
    if labels and len(labels) != len(runs):
        raise ConfigError(f"labels are {len(labels)}; they must be as many as runs, {len(runs)}")


def check_one_env(runs: Sequence[Path], of_runs: Sequence[Config]) -> None:
    """Refuse runs that can't be shown beside each other.

    Raises:
        UserError: names the first that is of another environment than the first.
    """
    first = of_runs[0]
    for run, config in zip(runs, of_runs, strict=True):
        if (config.env, config.env_options) != (first.env, first.env_options):
            same = f"{run} is of {config.env}, {runs[0]} of {first.env}"
            if config.env == first.env:
                same = f"{run} has other env_options than {runs[0]}"
            raise ConfigError(f"runs: {same}; they must be of one environment")


def names(runs: Sequence[Path], of_runs: Sequence[Config], labels: Sequence[str]) -> tuple[str, ...]:
    """What runs that are shown beside each other are called: labels, or methods, with folders where those are alike.

    Raises:
        UserError: they don't differ.
    """
    methods = [config.method for config in of_runs]
    if len(set(methods)) < len(methods):
        methods = [f"{method} ({run})" for method, run in zip(methods, runs, strict=True)]
    chosen = tuple(labels or methods)
    if len(set(chosen)) < len(chosen):
        field = "labels" if labels else "runs"
        raise ConfigError(f"{field} are {', '.join(labels or map(str, runs))}; they must differ")
    return chosen


def check_seed(seed: int, runs: Sequence[Path], of_runs: Sequence[Config]) -> None:
    """Refuse the number of an agent that a run does not have.

    Raises:
        UserError: names the run, and its agents.
    """
    for run, config in zip(runs, of_runs, strict=True):
        if not 0 <= seed < config.seeds:
            raise ConfigError(f"seed is {seed}; {run} has agents from 0 to {config.seeds - 1}")


def read_summary(out: Path) -> Record:
    """The summary of a finished run."""
    return json.loads((out / SUMMARY).read_text())


def note_origin(out: Path, completed_chunks: int) -> None:
    """Note which program goes on with a run, and from where: a run may be resumed with other code."""
    origin = {
        "completed_chunks": completed_chunks,
        "commit": provenance.commit(),
        "code": provenance.code(),
        "versions": provenance.versions(),
        "machine": devices.machine(),
    }
    _write(out / ORIGINS, "".join(json.dumps(record) + "\n" for record in [*loggers.read(out / ORIGINS), origin]))


def origins(out: Path) -> list[Record]:
    """Programs that have made chunks of a run, in turn, as noted; later ones began again where a checkpoint stood."""
    noted = loggers.read(out / ORIGINS)
    starts = [origin["completed_chunks"] for origin in noted]
    return [origin for n, origin in enumerate(noted) if all(starts[n] < later for later in starts[n + 1 :])]


def of_todays_code(out: Path) -> bool:
    """Whether the code here decides the numbers of a run as that which made it did; true where nothing was made."""
    finished = (out / SUMMARY).is_file()
    if not finished and not any((out / "checkpoints").glob("*")):
        return True
    codes = [origin["code"] for origin in origins(out)] or [None]
    if finished:
        codes.append(read_summary(out).get("code"))
    return all(map(provenance.is_todays, codes))


def replace_config(out: Path, config: Config) -> bool:
    """Give a run another config, of which nothing is made yet.

    Returns:
        True, for `processes.by_first`.
    """
    with lock.lock(out):
        _write(out / "config.json", configs.to_json(config))
    return True


def write_summary(out: Path, summary: Record) -> None:
    """Write the summary, complete or not at all: it marks a finished run."""
    _write(out / SUMMARY, json.dumps(summary, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    """Write a file, complete or not at all.

    Raises:
        UserError: it can't be written.
    """
    part = path.with_name(f"{path.name}.part")
    with writing(path):
        part.write_text(text)
        part.replace(path)
