"""Runs of a table, each in a process of its own: its devices, and the memory that it reports, are its own."""

import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from dynamite_jax.config import Config
from dynamite_jax.errors import one_line_errors, writing
from dynamite_jax.runtime import devices, interruption

POLL_S = 0.1
"""Seconds between two looks at which runs have ended."""


def train(run_configs: Mapping[str, Config], root: Path, at_once: int = 1) -> None:
    """Train runs in their order, or go on with those that were cut off; a line for each on stderr.

    Of several at once each has what it shows in ROOT/NAME.log, and an accelerator's memory is taken as it is needed.
    One that stops keeps those behind it from starting, and those beside it end first. SIGTERM is passed on to all;
    Ctrl-C reaches all processes of a terminal by itself.

    Args:
        run_configs: name of each run -> its config.
        root: folder of the run folders, by these names.
        at_once: how many train at the same time.

    Raises:
        UserError: the folder can't be made.
        SystemExit: with the exit code of the first run that stopped, 128 more than the signal that killed it, or
            `interruption.EXIT_CODE` where all were asked to stop.
        KeyboardInterrupt: at the second signal.
    """
    console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    if run_configs:
        with writing(root, "runs"):
            root.mkdir(parents=True, exist_ok=True)
    if at_once > 1:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    context = multiprocessing.get_context("spawn")
    waiting, running, codes, told = list(run_configs), {}, [], False
    with interruption.requests(console.print, taken=True) as request:
        while waiting or running:
            if request.made or codes:
                waiting.clear()
            if request.signal == signal.SIGTERM and not told:
                told = True
                for process in running.values():
                    process.terminate()
            while waiting and len(running) < at_once:
                name = waiting.pop(0)
                number = len(run_configs) - len(waiting)
                log = root / f"{name}.log" if at_once > 1 else None
                console.print(f"run {number} of {len(run_configs)}: {name}{f', see {log}' if log else ''}")
                running[name] = context.Process(target=_train, args=(run_configs[name], root / name, log))
                running[name].start()
            time.sleep(POLL_S)
            for name, code in [(name, process.exitcode) for name, process in running.items()]:
                if code is not None:
                    del running[name]
                if code:
                    codes.append(code if code > 0 else 128 - code)
                    console.print(f"{name}: exit code {codes[-1]}")
                elif code == 0 and at_once > 1:
                    console.print(f"{name}: done")
        if codes or request.made:
            raise SystemExit(interruption.EXIT_CODE if request.made else codes[0])


@one_line_errors
def _train(config: Config, out: Path, log: Path | None) -> None:
    """What a process does."""
    if log is not None:
        with writing(log, "runs"), log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    devices.setup(config.seeds)
    from dynamite_jax.runtime import training

    training.train(config, out, resume=(out / "config.json").is_file())
