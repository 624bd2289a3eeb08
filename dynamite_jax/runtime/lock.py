"""One process at a time in a folder: a file that the operating system locks, and unlocks however a process ends."""

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
    """Another process has locked the folder; the message names it."""


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep other processes out of `folder` while the block runs.

    The file is never removed: a process that is about to lock it would be left with a lock on a file that is gone.

    Raises:
        Locked: by another process; names its host and process.
    """
    with (folder / NAME).open("a+") as file:
        _acquire(file, folder)
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
            _acquire(file, folder)


def _acquire(file: IO[str], folder: Path) -> None:
    try:
        _lock(file)
    except OSError:
        raise Locked(f"{folder} is in use by {_holder(folder / NAME)}; name another folder, or wait") from None


def _holder(path: Path) -> str:
    """The process that holds the lock, in words; it may have locked a moment ago and not written its name yet."""
    for _ in range(20):
        with contextlib.suppress(OSError, ValueError, KeyError):
            holder = json.loads(path.read_text())
            return f"process {holder['process']} on {holder['host']}, since {holder['started']}"
        time.sleep(0.05)
    return "another process"


if os.name == "nt":
    import msvcrt

    LOCKED_BYTE = 2**30  # Windows refuses to read what is locked, so this byte lies behind the text

    def _lock(file: IO[str]) -> None:
        file.seek(LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        file.seek(0)
else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
