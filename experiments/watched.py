"""A trainer as a program of its own, watched from outside: when it says how far it is, and how much memory it takes."""

import contextlib
import json
import os
import platform
import resource
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

Line = dict[str, Any]
PROC = Path("/proc")


@dataclass
class Watched:
    """What was seen of a run.

    Attributes:
        lines: JSON lines that it printed, each with `seconds` since its start; `steps` counts its environment steps.
        peak_mb: greatest memory of it and its children, each page counted once; 0 where that is not known.
        ended: whether it came to its end, and was not stopped.
    """

    lines: list[Line] = field(default_factory=list)
    peak_mb: float = 0.0
    ended: bool = False

    @property
    def start_s(self) -> float:
        """Seconds from its start to its first line: imports, compile time, the first update."""
        return self.lines[0]["seconds"]

    @property
    def rate(self) -> float:
        """Environment steps per second from the first line to the last."""
        first, last = self.lines[0], self.lines[-1]
        return (last["steps"] - first["steps"]) / (last["seconds"] - first["seconds"])


def watch(command: list[str], limit_s: float, enough: Callable[[list[Line]], bool] = lambda lines: False) -> Watched:
    """Run a program until it ends, until it has said `enough`, or for `limit_s` seconds; what it started ends with it.

    Args:
        command: program and arguments.
        limit_s: seconds from its start.
        enough: of the lines so far.

    Raises:
        ValueError: it can't be run, it failed, or it printed fewer than two lines with `steps`.
    """
    with tempfile.TemporaryFile("w+") as said:
        return _watch(command, limit_s, enough, said)


def _watch(command: list[str], limit_s: float, enough: Callable[[list[Line]], bool], said: IO[str]) -> Watched:
    """The same, with a file for what the program says on stderr."""
    start = time.perf_counter()
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True)
    except OSError as error:
        raise ValueError(f"{command[0]!r} can't be run: {error.strerror}") from None
    seen, done = Watched(), threading.Event()

    def look_after() -> None:
        while not done.wait(0.1):
            seen.peak_mb = max(seen.peak_mb, _memory_mb(process.pid))
            if time.perf_counter() - start > limit_s:
                _stop(process)

    watcher = threading.Thread(target=look_after)
    watcher.start()
    try:
        assert process.stdout is not None
        for text in process.stdout:
            if (line := _parse(text)) is not None:
                seen.lines.append({"seconds": time.perf_counter() - start, **line})
                if enough(seen.lines):
                    _stop(process)
                    break
        code = process.wait()
    finally:
        done.set()
        watcher.join()
        _stop(process)
    seen.ended = code == 0
    if code > 0 or len(seen.lines) < 2:
        said.seek(0)
        told = said.read().strip().splitlines()
        cause = told[-1] if code > 0 and told else f"{len(seen.lines)} lines with steps in {limit_s:.0f} s"
        raise ValueError(f"`{' '.join(command)}` gave no measurement: {cause}")
    return seen


def _parse(text: str) -> Line | None:
    """A line of a program, where it is a JSON object with a number of `steps`."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("steps"), int) else None


def _stop(process: subprocess.Popen) -> None:
    """End a program and all it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _memory_mb(root: int) -> float:
    """Memory of a process group now, in MB; pages that several share are shared out among them."""
    if platform.system() != "Linux":
        unit = 2**20 if platform.system() == "Darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit
    total = 0
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
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 2**10
