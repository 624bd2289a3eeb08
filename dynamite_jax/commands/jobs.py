"""Runs of a table, each in a process of its own: its devices, and the memory that it reports, are its own."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console

from dynamite_jax.config import Config
from dynamite_jax.errors import one_line_errors
from dynamite_jax.runtime import devices
from dynamite_jax.runtime.interruption import EXIT_CODE

POLL_S = 0.1
"""Seconds between two looks at whether a run has ended."""


def train(run_configs: Mapping[str, Config], root: Path, at_once: int = 1) -> None:
    """Train runs in their order, or go on with those that were cut off; a line for each on stderr.

    Of several at once each has what it shows in ROOT/NAME.log, and an accelerator's memory is taken as it is needed.
    One that stops keeps those behind it from starting, and those beside it end first. SIGTERM asks all to stop.

    Args:
        run_configs: name of each run -> its config.
        root: folder of the run folders, by these names.
        at_once: how many train at the same time.

    Raises:
        SystemExit: with the exit code of the first run that stopped, or that of a signal which all were passed.
    """
    console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    if at_once > 1:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    context = multiprocessing.get_context("spawn")
    waiting, running, codes = list(run_configs), {}, []
    with _sigterm() as asked:
        while waiting or running:
            if asked.is_set():
                asked.clear()  # a second signal would stop them at once
                codes.append(EXIT_CODE)
                for process in running.values():
                    process.terminate()
            if codes:
                waiting.clear()
            while waiting and len(running) < at_once:
                name = waiting.pop(0)
                number = len(run_configs) - len(waiting)
                log = root / f"{name}.log" if at_once > 1 else None
                console.print(f"run {number} of {len(run_configs)}: {name}{f', see {log}' if log else ''}")
                process = context.Process(target=_train, args=(run_configs[name], root / name, log))
                process.start()
                running[name] = process
            for name, process in list(running.items()):
                process.join(POLL_S)
                if (code := process.exitcode) is not None:
                    del running[name]
                    codes += [abs(code)] if code else []
                    if at_once > 1:
                        console.print(f"{name}: {f'exit code {code}' if code else 'done'}")
    if codes:
        raise SystemExit(codes[0])


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """Set an event at SIGTERM while the block runs; Ctrl-C reaches all processes of a terminal by itself."""
    asked = threading.Event()
    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
            stack.callback(signal.signal, signal.SIGTERM, before)
        yield asked


def _train(config: Config, out: Path, log: Path | None) -> None:
    """What a process does."""
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    _run(config, out)


@one_line_errors
def _run(config: Config, out: Path) -> None:
    devices.setup(config.seeds)
    from dynamite_jax.runtime import training

    training.train(config, out, resume=(out / "config.json").is_file())
