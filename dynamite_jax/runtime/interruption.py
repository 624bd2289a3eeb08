"""Signals that ask a run to stop: its state is kept first.

SIGTERM comes from schedulers, some time before they kill; SIGINT from a keyboard. Both ask the loop to let the chunk
that runs end, to keep the state and to stop. The next signal stops at once.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

EXIT_CODE = 75
"""Of a command that was asked to stop and can go on: EX_TEMPFAIL of sysexits.h."""
GRACE_S = 30.0
"""Seconds that schedulers leave by default between SIGTERM and SIGKILL: `KillWait` of SLURM, Kubernetes likewise."""

POLL_S = 0.002
"""Seconds between two looks at whether a chunk is done."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop; its state is kept."""


ECHO_S = 1.0
"""Seconds after SIGTERM in which another one is the same: schedulers send it to all processes, what started one too."""


class Request:
    """Whether a signal has asked to stop, and which."""

    def __init__(self):
        self.signal: signal.Signals | None = None

    @property
    def made(self) -> bool:
        """Whether one has."""
        return self.signal is not None


@contextlib.contextmanager
def requests(say: Callable[[str], None], *, taken: bool) -> Iterator[Request]:
    """Take signals for requests while the block runs; outside of the main thread, which alone gets them, take none.

    Args:
        say: called with a line for the user.
        taken: whether they are; otherwise they do what they did before.

    Raises:
        KeyboardInterrupt: at the second signal.
    """
    request, first = Request(), 0.0

    def ask(number: int, _: Any) -> None:
        nonlocal first
        if request.signal == number == signal.SIGTERM and time.monotonic() - first < ECHO_S:
            return
        if request.made:
            raise KeyboardInterrupt
        request.signal, first = signal.Signals(number), time.monotonic()
        say(f"{request.signal.name}: stopping once the chunk that runs is kept; once more to stop at once")

    with contextlib.ExitStack() as stack:
        if taken and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                stack.callback(signal.signal, number, signal.signal(number, ask))
        yield request


def wait(arrays: Iterable[Any]) -> None:
    """Wait until arrays are computed, and attend to signals meanwhile, which `jax.block_until_ready` does not.

    No thread waits in its place: one that is inside of JAX when Python ends makes the process abort.

    Args:
        arrays: of JAX.
    """
    for array in arrays:
        while not array.is_ready():
            time.sleep(POLL_S)
