"""A trainer as a process of its own, watched from outside: when it prints its progress, and its memory."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from dynamite_envs.errors import UserError

Line = dict[str, Any]
PROC = Path("/proc")
SAMPLED_S = 2.0  # seconds between two samples of memory: each stops the program, for 10 ms a GB


@dataclass
class Watched:
    """Measurements of a program's run.

    Attributes:
        lines: JSON lines that it printed, each with `seconds` since its start; `steps` counts its environment steps.
        peak_mb: greatest memory of it and its children, without the files of libraries; 0 where that is not known.
        stopped: whether it was stopped before its end.
    """

    lines: list[Line] = field(default_factory=list)
    peak_mb: float = 0.0
    stopped: bool = False

    @property
    def start_s(self) -> float:
        """Seconds from its start to its first line: imports, compile time, the first update."""
        return self.lines[0]["seconds"]

    @property
    def rate(self) -> float:
        """Environment steps per second from the first line to the last."""
        first, last = self.lines[0], self.lines[-1]
        return (last["steps"] - first["steps"]) / (last["seconds"] - first["seconds"])


def _never(lines: list[Line]) -> bool:
    """A rule that stops no program."""
    return False


def watch(
    command: list[str],
    *,
    limit_s: float,
    enough: Callable[[list[Line]], bool] = _never,
    environment: dict[str, str] | None = None,
) -> Watched:
    """Run a program until it ends, until its lines are `enough`, or for `limit_s` seconds; its children end with it.

    Args:
        command: program and arguments.
        limit_s: seconds from its start.
        enough: whether to stop, given the lines so far.
        environment: variables of the environment beside those that are set.

    Raises:
        UserError: it can't be run, it failed, or it printed fewer than two lines with `steps`.
    """
    with tempfile.TemporaryFile("w+") as stderr:
        return _watch(command, limit_s=limit_s, enough=enough, environment=environment or {}, stderr=stderr)


def _watch(
    command: list[str],
    *,
    limit_s: float,
    enough: Callable[[list[Line]], bool],
    environment: dict[str, str],
    stderr: IO[str],
) -> Watched:
    """`watch` with a file for the program's stderr."""
    start = time.perf_counter()
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        )
    except (OSError, IndexError) as error:
        raise UserError(f"`{' '.join(command)}` can't be run: {error}") from None
    watched, ended = Watched(), threading.Event()

    def sample_memory_until_limit() -> None:
        sampled = 0.0
        while not ended.wait(0.1):
            now = time.perf_counter() - start
            if now - sampled > SAMPLED_S:
                sampled, watched.peak_mb = now, max(watched.peak_mb, _memory_mb(process.pid))
            if now > limit_s:
                watched.stopped = True
                _stop(process)

    watcher = threading.Thread(target=sample_memory_until_limit)
    watcher.start()
    try:
        assert process.stdout is not None
        for text in process.stdout:
            if (line := _parse(text)) is not None:
                watched.lines.append({**line, "seconds": time.perf_counter() - start})
                if enough(watched.lines):
                    watched.stopped = True
                    watched.peak_mb = max(watched.peak_mb, _memory_mb(process.pid))
                    _stop(process)
                    break
        code = process.wait()
    finally:
        ended.set()
        watcher.join()
        _stop(process)
    failed = code != 0 and not watched.stopped
    if failed or len(watched.lines) < 2:
        stderr.seek(0)
        messages = stderr.read().strip().splitlines() or [f"exit code {code}"]
        cause = messages[-1] if failed else f"{len(watched.lines)} lines with steps in {limit_s:.0f} s"
        raise UserError(f"`{' '.join(command)}` gave no measurement: {cause}")
    return watched


def _parse(text: str) -> Line | None:
    """A line of a program, where it is a JSON object with a number of `steps`."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("steps"), int) else None


def _stop(process: subprocess.Popen) -> None:
    """End a program and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _memory_mb(root: int) -> float:
    """Memory of a process group now, in MB, without the files of its libraries; what processes share counts once."""
    total = 0
    if not PROC.is_dir():
        return 0.0
    for folder in PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            group = int((folder / "stat").read_text().rpartition(")")[2].split()[2])
            if group != root:
                continue
            rollup = (folder / "smaps_rollup").read_text()
        except OSError:  # it has just ended
            continue
        fields = dict(line.split(":", 1) for line in rollup.splitlines()[1:])
        total += sum(int(fields[name].split()[0]) for name in ("Pss_Anon", "Pss_Shmem"))
    return total / 2**10
