"""One process at a time in a folder: a file that the operating system locks, and lets go of however a process ends."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dynamite_envs.errors import UserError

NAME = "run.lock"


class Locked(UserError):
    """Another process has the folder; the message names it."""


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep other processes out of `folder` while the block runs.

    The file stays: whoever removed it could take it from under a process that is about to lock it.

    Raises:
        Locked: another process is in; names its host and process.
    """
    with (folder / NAME).open("a+") as file:
        _take(file, folder)
        file.truncate(0)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(json.dumps({"host": socket.gethostname(), "process": os.getpid(), "started": started}) + "\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def check_free(folder: Path) -> None:
    """Refuse a folder that another process has locked.

    Raises:
        Locked: names its host and process.
    """
    if (folder / NAME).is_file():
        with (folder / NAME).open("a+") as file:
            _take(file, folder)


def _take(file: IO[str], folder: Path) -> None:
    try:
        _lock(file)
    except OSError:
        raise Locked(f"{folder} is in use by {_holder(folder / NAME)}; name another folder, or wait") from None


def _holder(path: Path) -> str:
    """Who has the lock, in words. It may have locked a moment ago and not signed yet."""
    for _ in range(20):
        with contextlib.suppress(OSError, ValueError, KeyError):
            by = json.loads(path.read_text())
            return f"process {by['process']} on {by['host']}, since {by['started']}"
        time.sleep(0.05)
    return "another process"


if os.name == "nt":
    import msvcrt

    FAR = 2**30  # Windows lets nobody read what is locked, so the byte locked lies behind the text

    def _lock(file: IO[str]) -> None:
        file.seek(FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        file.seek(0)
else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
