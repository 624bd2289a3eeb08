"""One process at a time in a folder: a file that the operating system locks, and unlocks however a process ends.

Where the file system has no locks, a file that only one process can create stands for one. A process that is killed
leaves it behind, and nobody can tell that from one that runs on another host: then people have to remove it.
"""

import contextlib
import errno
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dynamite_envs.errors import FallbackWarning, UserError

NAME = "run.lock"
CLAIM = "run.claim"
"""Stands for a lock where there are none."""

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


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
        if not _acquire(file, folder):
            with _claimed(folder):
                yield
            return
        file.truncate(0)
        file.write(_own_name())
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
            if not _acquire(file, folder) and (folder / CLAIM).exists():
                raise _claimed_by_other(folder)


def _acquire(file: IO[str], folder: Path) -> bool:
    """Lock a file; False where its file system has no locks."""
    try:
        _lock(file)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise Locked(f"{folder} is in use by {_holder(folder / NAME)}; name another folder, or wait") from None
    return True


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Hold the file that stands for a lock."""
    try:
        with (folder / CLAIM).open("x") as file:
            file.write(_own_name())
    except FileExistsError:
        raise _claimed_by_other(folder) from None
    line = f"{folder} is on a file system without locks; {CLAIM} in it keeps other processes out"
    warnings.warn(f"{line}, and has to be removed by hand if this one is killed", FallbackWarning, stacklevel=4)
    try:
        yield
    finally:
        (folder / CLAIM).unlink(missing_ok=True)


def _claimed_by_other(folder: Path) -> Locked:
    holder = f"{folder} is in use by {_holder(folder / CLAIM)}"
    return Locked(f"{holder}; name another folder, or wait, or, if that process is gone, remove {folder / CLAIM}")


def _own_name() -> str:
    """This process, as others read it."""
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    return json.dumps({"host": socket.gethostname(), "process": os.getpid(), "started": started}) + "\n"


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
