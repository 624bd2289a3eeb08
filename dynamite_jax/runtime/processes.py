"""The processes of one run: one on each host of a pod or cluster, all of them the same program on devices of their own.

JAX joins them. The first one writes and prints; what it decides alone it tells the others, and what may differ between
processes (a signal, an unreadable file) is agreed on before any of them goes on, since one that waits for the others in
a collective waits for ever once they have turned elsewhere.

JAX is imported inside functions, as in `devices`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynamite_envs.errors import UserError

SHUTDOWN_S = 30
"""Seconds that a process which has ended waits for the others to end."""
SHARED_S = 10.0
"""Seconds until a file must be seen by all processes: file systems of a network may show it late."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Arguments of commands that may run as several processes."""

    distributed: bool = False
    """Run as one of several processes, which JAX finds: on TPU pods, with SLURM, Open MPI or Kubernetes."""
    coordinator: str | None = None
    """HOST:PORT where process 0 listens, if JAX can't find it; then `processes` and `process` have to be named, too."""
    processes: int | None = None
    """How many there are."""
    process: int | None = None
    """Number of this one, from 0."""

    @property
    def several(self) -> bool:
        """Whether the command line asks for more than this process."""
        return self.distributed or self.coordinator is not None

    def join(self) -> None:
        """Join the other processes, before anything else asks JAX for its devices.

        Raises:
            UserError: they are named in part, or not found.
        """
        named = {"coordinator": self.coordinator, "processes": self.processes, "process": self.process}
        missing = [name for name, value in named.items() if value is None]
        if 0 < len(missing) < len(named):
            raise UserError(f"{missing[0]} is not set; coordinator, processes and process go together")
        if not missing:
            _check(self.coordinator, self.processes, self.process)
        if not self.several:
            return
        import jax

        # Signals are the loop's: JAX's own service would take SIGTERM and not stop.
        jax.config.update("jax_enable_preemption_service", False)
        try:
            jax.distributed.initialize(
                self.coordinator, self.processes, self.process, shutdown_timeout_seconds=SHUTDOWN_S
            )
        except ValueError as error:
            raise UserError(
                f"distributed is True, and JAX finds no other processes here ({error}); name coordinator, processes "
                "and process"
            ) from None


def _check(coordinator: str | None, processes: int | None, process: int | None) -> None:
    host, _, port = (coordinator or "").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(f"coordinator is {coordinator!r}; it must be HOST:PORT, as 10.0.0.1:1234")
    if processes is None or processes < 1:
        raise UserError(f"processes is {processes}; it must be at least 1")
    if process is None or not 0 <= process < processes:
        raise UserError(f"process is {process}; it must be from 0 to {processes - 1}")


def count() -> int:
    """How many processes the run has."""
    import jax

    return jax.process_count()


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    import jax

    return jax.process_index() == 0


def any_of(flag: bool) -> bool:
    """Whether any process says so; all of them must ask."""
    return flag if count() == 1 else bool(_everybodys(flag).any())


def all_of(flag: bool) -> bool:
    """Whether every process says so; all of them must ask."""
    return flag if count() == 1 else bool(_everybodys(flag).all())


def greatest(number: float) -> float:
    """The greatest of the numbers that the processes give; all of them must ask."""
    return number if count() == 1 else float(_everybodys(number).max())


def _everybodys(value: bool | float) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(np.array(value)))


def by_first(action: Callable[[], bool]) -> bool:
    """What an action of the first process says, told to all; the others wait for it.

    Raises:
        UserError: in the other processes, where the action failed.
    """
    if count() == 1:
        return action()
    from jax.experimental import multihost_utils

    failure, said = None, False
    if is_first():
        try:
            said = action()
        except BaseException as error:
            failure = error
    told = int(multihost_utils.broadcast_one_to_all(np.int32(2 if failure else said)))
    if failure is not None:
        raise failure
    if told == 2:
        raise UserError("process 0 can't go on; its message says why")
    return bool(told)


def check_shared(path: Path, field: str = "out") -> None:
    """Refuse a folder that not all processes see: each writes its own seeds there.

    Args:
        path: a file that the first process has written.
        field: name of its folder in the message.

    Raises:
        UserError: in all processes.
    """
    deadline = time.monotonic() + SHARED_S
    while count() > 1 and not path.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    if not all_of(path.is_file()):
        raise UserError(f"{field} is {str(path.parent)!r}; all {count()} processes must see it, and not all of them do")
