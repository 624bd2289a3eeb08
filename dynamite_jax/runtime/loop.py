"""The host's loop over compiled chunks: metrics of one are read while the next one runs."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from dynamite_jax.analysis import statistics
from dynamite_jax.runtime.loggers import Log, Record
from dynamite_jax.runtime.program import Program

if TYPE_CHECKING:
    from dynamite_jax.runtime.checkpoints import Checkpoints


class Diverged(RuntimeError):
    """A loss is not finite."""


@dataclass(frozen=True)
class Outputs:
    """Where a run's records, states and messages go; in a run of several processes only the first one's are files."""

    log: Log | None
    checkpoints: "Checkpoints"
    console: Console


def run(program: Program, step: Callable, states: Any, done: int, outputs: Outputs, start: float) -> Any:
    """Run the chunks that are left.

    Args:
        program: the run.
        step: its compiled chunk.
        states: of all seeds, [rows, ...]; they are donated.
        done: chunks that are done.
        outputs: where results go.
        start: when the run would have started on `time.perf_counter` if it had never stopped.

    Returns:
        The states at the end, [rows, ...].

    Raises:
        Diverged: a loss is not finite.
    """
    config, chunks, console = program.config, program.chunks, outputs.console
    pending: tuple[int, Record] | None = None
    clock, warned = time.perf_counter(), False
    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("training", total=chunks, completed=done)

        def flush() -> None:
            nonlocal pending, clock, warned
            if pending is None:
                return
            (number, values), pending = pending, None
            values = jax.device_get(values)  # waits for the chunk
            now = time.perf_counter()
            rate, clock = program.steps_per_chunk * config.seeds / (now - clock), now
            record = {"chunk": number, "env_steps": number * program.steps_per_chunk, "wall_s": now - start}
            record |= {"steps_per_s": rate, "return_iqm": statistics.interquartile_mean(values["return"])}
            record |= {name: [float(v) for v in value] for name, value in values.items()}
            if broken := [name for name, value in values.items() if not np.all(np.isfinite(value))]:
                raise Diverged(f"{', '.join(broken)} not finite in chunk {number}; the last good checkpoint is kept")
            if outputs.log:
                outputs.log.write(record)
            if number == chunks or not warned:
                for line in program.algorithm.warnings(values):
                    warned = True
                    console.print(f"warning: {line}", markup=False, soft_wrap=True)
            if number == done + 1 and number < chunks:
                left = (chunks - number) * program.steps_per_chunk * config.seeds / rate
                console.print(f"about {duration(left)} of training to go", markup=False)
            losses = " ".join(f"{n} {np.mean(values[n]):.3g}" for n in ("vae/loss", "ppo/value_loss") if n in values)
            status = f"return {record['return_iqm']:.2f} | {rate / 1e3:.0f} k steps/s | {losses}"
            progress.update(bar, completed=number, description=status)
            if not console.is_terminal and number % max(1, chunks // 10) == 0:
                line = f"{record['env_steps']:>12,} steps {record['wall_s']:6.0f} s | {status}"
                console.print(line, markup=False, soft_wrap=True)

        for number in range(done + 1, chunks + 1):
            states, values = step(states)
            flush()
            pending = number, values
            if number % config.checkpoint_every == 0 or number == chunks:
                flush()  # also proves that the state is finite before it is kept
                seeds = program.gather(states)
                if not bool(np.all(jax.device_get(seeds.finite))):
                    raise Diverged(f"a loss was not finite by chunk {number}; the last good checkpoint is kept")
                outputs.checkpoints.save(number, seeds)
    return states


def duration(seconds: float) -> str:
    """Words for a length of time: `40 seconds`, `12 minutes`, `3.5 hours`."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
