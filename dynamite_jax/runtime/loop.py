"""The host's loop over compiled chunks: the metrics of one are read while the next one runs."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from dynamite_jax.algorithms.faults import QUANTITIES
from dynamite_jax.analysis import statistics
from dynamite_jax.runtime import interruption, processes
from dynamite_jax.runtime.loggers import Log, Memory, Record
from dynamite_jax.runtime.program import Program

if TYPE_CHECKING:
    from dynamite_jax.runtime.checkpoints import Checkpoints


_SHOWN = ("vae/loss", "ppo/value_loss", *(f"{name}/policy_loss" for name in ("iql", "td3bc", "cql", "bc")))
EXIT_CODE = 3
"""Of a command whose run has `Diverged`."""


class Diverged(RuntimeError):
    """Something is not finite; the message names the first that was."""


class LongChunk(Exception):
    """The first chunk took longer than schedulers leave a run that shall stop; nothing of it is written.

    Attributes:
        seconds: that it took.
        length: meta-updates of a chunk that takes half of what they leave, or 1.
    """

    def __init__(self, seconds: float, length: int):
        self.seconds, self.length = seconds, length


@dataclass(frozen=True)
class Outputs:
    """Where a run's records, states and messages go, and the trace of a chunk; None where they are not kept."""

    log: Log | Memory | None
    checkpoints: "Checkpoints | None"
    console: Console
    profile: Path | None = None


def run(
    program: Program,
    step: Callable,
    states: Any,
    *,
    outputs: Outputs,
    start: float,
    completed_chunks: int = 0,
    refuse_long: bool = False,
) -> Any:
    """Run the remaining chunks.

    Args:
        program: the run.
        step: its compiled chunk.
        states: of all seeds, [rows, ...]; they are donated.
        outputs: where results are written.
        start: when the run would have started on `time.perf_counter` if it had never been interrupted.
        completed_chunks: number of chunks that are completed.
        refuse_long: whether a first chunk that takes too long ends the loop; otherwise a line warns.

    Returns:
        The states at the end, [rows, ...].

    Raises:
        LongChunk: the first chunk took too long, where that is refused.
        Diverged: something is not finite, and such meta-updates are not left out, or all of a chunk were.
        Interrupted: a signal asked to stop, and the state is kept.
    """
    config, chunks, console = program.config, program.chunks, outputs.console
    pending: tuple[int, Record, float] | None = None
    last_end, warned = time.perf_counter(), False
    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    # A notebook needs ipywidgets to move it.
    live = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
    say = partial(console.print, markup=False, soft_wrap=True)
    requests = interruption.requests(say, taken=outputs.checkpoints is not None)
    with Progress(*columns, console=console, disable=not live) as progress, requests as request:
        bar = progress.add_task("training", total=chunks, completed=completed_chunks)

        def flush() -> None:
            nonlocal pending, last_end, warned
            if pending is None:
                return
            (number, metrics, end), pending = pending, None
            metrics = jax.device_get(metrics)
            chunk_s, last_end = end - last_end, end
            rate = program.steps_per_chunk * config.seeds / chunk_s
            record = {"chunk": number, "env_steps": number * program.steps_per_chunk, "wall_s": end - start}
            record |= {"steps_per_s": rate, "return_iqm": statistics.interquartile_mean(metrics["return"])}
            record |= {name: [float(v) for v in value] for name, value in metrics.items()}
            if not all(np.all(np.isfinite(value)) for value in metrics.values()):
                raise _diverged(program, states, number, metrics.get("left_out", ()))
            for seed, share in enumerate(metrics.get("left_out", [])):
                if share:
                    left_out = f"{round(share * config.chunk)} of {config.chunk} meta-updates"
                    say(f"warning: {left_out} of seed {seed} left out in chunk {number}: something was not finite")
            if outputs.log:
                outputs.log.write(record)
            if number == chunks or not warned:
                for line in program.algorithm.warnings(metrics):
                    warned = True
                    say(f"warning: {line}")
            if number == completed_chunks + 1 and number < chunks:
                say(f"about {duration((chunks - number) * chunk_s)} of training to go")
                _check_grace(chunk_s, config.chunk, say)
            losses = " ".join(f"{n} {np.mean(metrics[n]):.3g}" for n in _SHOWN if n in metrics)
            status = f"return {record['return_iqm']:.2f} | {rate / 1e3:.0f} k steps/s | {losses}"
            progress.update(bar, completed=number, description=status)
            if not live and number % max(1, chunks // 10) == 0:
                say(f"{record['env_steps']:>12,} steps {record['wall_s']:6.0f} s | {status}")

        warm = min(completed_chunks + 2, chunks)  # the first chunk also loads the program
        long: LongChunk | None = None
        for number in range(completed_chunks + 1, chunks + 1):
            if number == warm and outputs.profile:
                flush()
                with _traced(outputs.profile):
                    states, metrics = jax.block_until_ready(step(states))
            else:
                states, metrics = step(states)
            flush()
            # Before the next one is begun: a chunk that waits would have to end, too, and on CPUs its beginning blocks.
            interruption.wait(jax.tree.leaves(metrics))
            end = time.perf_counter()
            pending, asked = (number, metrics, end), processes.any_of(request.made)
            if refuse_long and number == 1 < chunks and not asked:
                long = _long(processes.greatest(end - last_end), config.chunk)
            if long:
                break
            if number % config.checkpoint_every == 0 or number == chunks or asked:
                flush()  # it also checks the metrics before the state is kept
                if config.not_finite == "stop" and np.any(jax.device_get(program.gather(states.faults.count))):
                    raise _diverged(program, states, number)
                if outputs.checkpoints:
                    outputs.checkpoints.save(number, program.kept(states))
            if asked:
                break
        if processes.any_of(request.made) and outputs.checkpoints:
            outputs.checkpoints.wait()
            raise interruption.Interrupted
        if long:
            raise long
    return states


def _diverged(program: Program, states: Any, number: int, left_out: Any = ()) -> Diverged:
    """The error of the first seed that can't go on: what was not finite in it before all else.

    Args:
        program: the run.
        states: of all seeds, [rows, ...].
        number: of the chunk after which that is seen.
        left_out: part of each seed's meta-updates that the chunk has left out, where they are left out.
    """
    faults = jax.device_get(program.gather(states.faults))
    seed = int(np.argmax(np.equal(left_out, 1.0) if len(left_out) else faults.count > 0))
    chunk, update = int(faults.update[seed]) // program.config.chunk + 1, int(faults.update[seed]) + 1
    line = f"{QUANTITIES[faults.quantity[seed]]} of seed {seed} not finite in chunk {chunk}, meta-update {update}"
    if len(left_out):
        line = f"all meta-updates of seed {seed} were left out in chunk {number}, after {line}"
    return Diverged(f"{line}; the last good checkpoint is kept")


@contextlib.contextmanager
def _traced(folder: Path) -> Iterator[None]:
    """Write what devices do while the block runs, for TensorBoard, and as perfetto_trace.json.gz for Perfetto."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # the host only waits
    jax.profiler.start_trace(folder, create_perfetto_trace=True, profiler_options=options)
    try:
        yield
    finally:
        jax.profiler.stop_trace()


def _check_grace(chunk_s: float, length: int, say: Callable[[str], None]) -> None:
    """Warn where the chunk that runs when a run is asked to stop does not end before a scheduler kills."""
    if chunk_s <= interruption.GRACE_S:
        return
    line = f"warning: a chunk takes {duration(chunk_s)}, and a run that shall stop is kept when its chunk ends"
    line += f"; schedulers often kill after {interruption.GRACE_S:.0f} s"
    say(f"{line}, which --chunk {long.length} allows for" if (long := _long(chunk_s, length)) else line)


def _long(chunk_s: float, length: int) -> LongChunk | None:
    """What to raise of a chunk that took so many seconds; None where it was short enough, or none could be."""
    if not chunk_s / length <= interruption.GRACE_S < chunk_s:
        return None
    return LongChunk(chunk_s, max(1, int(0.5 * length * interruption.GRACE_S / chunk_s)))


def duration(seconds: float) -> str:
    """A length of time in words: `40 seconds`, `12 minutes`, `3.5 hours`."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
