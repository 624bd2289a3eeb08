"""Training: parse, build, compile, loop, report.

python -m dynamite_jax.train --env gridworld --method dynamite --seeds 4
"""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from dynamite_envs import registry
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.algorithms import meta_ppo
from dynamite_jax.config import Config, ConfigError
from dynamite_jax.data.types import TrainState
from dynamite_jax.errors import one_line_errors, parse, writing
from dynamite_jax.evaluate import evaluate, report
from dynamite_jax.runtime import metrics, parallel
from dynamite_jax.runtime.checkpoints import Checkpoints

REPORTED = ("dynamite-jax", "jax", "jaxlib", "flax", "optax", "brax", "orbax-checkpoint", "distrax", "numpy")


@dataclass(frozen=True)
class Arguments:
    """Train an agent. Everything lands in one run folder: config, metrics, checkpoints, summary."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    scale: presets.Scale = "cores"
    """What the other defaults are sized for: a few cores, or a GPU or TPU."""
    out: Path | None = None
    """Run folder; by default runs/ENV_METHOD_TIME. A folder that holds a run is never overwritten."""
    resume: bool = False
    """Go on with the run in `out` from its newest valid checkpoint."""
    tensorboard: bool = True
    """Write TensorBoard events."""
    wandb: bool = False
    """Write to Weights & Biases; WANDB_MODE=offline keeps it on this machine."""


class Diverged(RuntimeError):
    """A loss is not finite."""


def train(
    config: Config, out: Path, resume: bool = False, tensorboard: bool = False, wandb: bool = False
) -> metrics.Record:
    """Train, evaluate and write a run folder.

    Args:
        config: the run.
        out: run folder.
        resume: go on where the run in `out` stopped.
        tensorboard: write TensorBoard events.
        wandb: write to Weights & Biases.

    Returns:
        The summary, as in summary.json.

    Raises:
        ValueError: the config, `out` or its checkpoints can't be used.
        Diverged: a loss is not finite; the last good checkpoint stays.
    """
    start = time.perf_counter()
    console = Console(stderr=True)
    configs.check(config)
    presets.check(config)
    parallel.prepare(config.seeds)
    env = registry.make(config.env, **configs.env_options(config))
    configs.check_against_horizon(config, env.horizon)
    if wandb:
        metrics.check_wandb()
    _claim(out, config, resume)
    program = parallel.Program(config, env)
    chunks = program.chunks

    states, done, earlier_s = program.init(), 0, 0.0
    checkpoints = Checkpoints(out / "checkpoints")
    if resume and checkpoints.any():  # a run killed before its first checkpoint starts again
        done, states, damaged = checkpoints.restore(states)
        for line in damaged:
            console.print(f"warning: {line}; going on from chunk {done}", markup=False, soft_wrap=True)
        earlier = [record for record in metrics.read(out / "metrics.jsonl") if record["chunk"] <= done]
        earlier_s = earlier[-1]["wall_s"] if earlier else 0.0
    log = metrics.Log(out, done, tensorboard, wandb, dataclasses.asdict(config))
    try:
        if done < chunks:
            console.print(
                f"{config.method} on {config.env}: {config.seeds} seeds x {chunks * program.steps_per_chunk:,} steps"
                f" -> {out}; compiling",
                markup=False,
                soft_wrap=True,
            )
            step = program.compile(states)
            console.print(f"compiled in {program.compile_s:.1f} s", markup=False)
            states = _loop(program, step, states, done, checkpoints, log, console, start - earlier_s)
        checkpoints.wait()
    finally:
        log.close()
        checkpoints.close()
    result = evaluate(config, env, program.agent, states, config.eval_episodes, config.seed)
    report(result)
    summary = _summary(program, result, out, earlier_s + time.perf_counter() - start)
    part = out / "summary.json.part"
    part.write_text(json.dumps(summary, indent=2) + "\n")
    part.replace(out / "summary.json")  # whole or not there: it marks a finished run
    console.print(f"summary in {out / 'summary.json'}", markup=False, soft_wrap=True)
    return summary


def _loop(
    program: parallel.Program,
    step: Callable,
    states: TrainState,
    done: int,
    checkpoints: Checkpoints,
    log: metrics.Log,
    console: Console,
    start: float,
) -> TrainState:
    """Run the chunks that are left. Metrics of a chunk are read while the next one runs."""
    config, chunks = program.config, program.chunks
    pending: tuple[int, metrics.Record] | None = None
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
            record |= {"steps_per_s": rate, "return_iqm": metrics.interquartile_mean(values["return"])}
            record |= {name: [float(v) for v in value] for name, value in values.items()}
            if not all(np.all(np.isfinite(value)) for value in values.values()):
                broken = [name for name, value in values.items() if not np.all(np.isfinite(value))]
                raise Diverged(f"{', '.join(broken)} not finite in chunk {number}; the last good checkpoint is kept")
            log.write(record)
            if lines := meta_ppo.warnings(values) if number == chunks or not warned else []:
                warned = True
                for line in lines:
                    console.print(f"warning: {line}", markup=False, soft_wrap=True)
            if number == done + 1 and number < chunks:
                left = (chunks - number) * program.steps_per_chunk * config.seeds / rate
                console.print(f"about {_duration(left)} of training to go", markup=False)
            losses = " ".join(f"{n} {np.mean(values[n]):.3g}" for n in ("vae/loss", "ppo/value_loss") if n in values)
            said = f"return {record['return_iqm']:.2f} | {rate / 1e3:.0f} k steps/s | {losses}"
            progress.update(bar, completed=number, description=said)
            if not console.is_terminal and number % max(1, chunks // 10) == 0:
                line = f"{record['env_steps']:>12,} steps {record['wall_s']:6.0f} s | {said}"
                console.print(line, markup=False, soft_wrap=True)

        for number in range(done + 1, chunks + 1):
            states, values = step(states)
            flush()
            pending = number, values
            if number % config.checkpoint_every == 0 or number == chunks:
                flush()  # also proves that the state is finite before it is kept
                if not bool(np.all(jax.device_get(states.finite))):
                    raise Diverged(f"a loss was not finite by chunk {number}; the last good checkpoint is kept")
                checkpoints.save(number, states)
    return states


def _duration(seconds: float) -> str:
    """Words for a length of time: `40 seconds`, `12 minutes`, `3.5 hours`."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _claim(out: Path, config: Config, resume: bool) -> None:
    """Make the run folder ours, or check that it holds the very run to go on with."""
    path = out / "config.json"
    if resume:
        if not path.is_file():
            raise ConfigError(f"out is {str(out)!r}; to resume it must be a run folder, one with a config.json")
        if changed := configs.differences(configs.load(path), config):
            raise ConfigError(f"resume: the run in {out} has another config; {'; '.join(changed)}")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"out is {str(out)!r}, which is already used; name a new folder, or add --resume to go on")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        configs.save(config, path)


def _summary(program: parallel.Program, result: metrics.Record, out: Path, wall_s: float) -> metrics.Record:
    records = metrics.read(out / "metrics.jsonl")
    config = program.config
    return {
        "env": config.env,
        "method": config.method,
        "eval": result,
        "env_steps": program.chunks * program.steps_per_chunk,
        "steps_per_s": float(np.median([record["steps_per_s"] for record in records])),
        "compile_s": program.compile_s,
        "wall_s": wall_s,
        "peak_mb": parallel.peak_mb(),
        "versions": {name: metadata.version(name) for name in REPORTED} | {"python": sys.version.split()[0]},
        "machine": parallel.machine(),
        "commit": commit(),
    }


def commit() -> str | None:
    """Commit of the source, marked where a tracked file differs from it that is no result; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)results")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _arguments(argv: list[str]) -> Arguments:
    """Command line -> arguments. Defaults are the preset of env and method, or the run that is resumed."""
    first = parse(_First, [word for word in _only(argv, ("--env", "--method", "--scale", "--out"))])
    if "--resume" in argv and first.out is not None and (first.out / "config.json").is_file():
        if first.scale is not None:
            raise ConfigError(f"scale is {first.scale!r}; a run that goes on keeps its own, so leave it out")
        preset = configs.load(first.out / "config.json")
    else:
        preset = presets.default(first.env, first.method, first.scale or "cores")
    arguments = parse(Arguments, argv, default=Arguments(preset), prog="python -m dynamite_jax.train")
    return arguments


@dataclass(frozen=True)
class _First:
    """What decides the defaults of everything else."""

    env: str = "gridworld"
    method: str = "dynamite"
    scale: presets.Scale | None = None
    out: Path | None = None


def _only(argv: list[str], flags: tuple[str, ...]) -> list[str]:
    """The words of a command line that set one of `flags`."""
    kept = []
    for position, word in enumerate(argv):
        if word.split("=")[0] in flags:
            kept += [word] if "=" in word else argv[position : position + 2]
    return kept


@one_line_errors
def main() -> None:
    """Train as the command line says."""
    arguments = _arguments(sys.argv[1:])
    config, out = arguments.config, arguments.out
    if out is None:
        if arguments.resume:
            raise ConfigError("out is not set; to resume it must be a run folder")
        out = Path("runs") / f"{config.env}_{config.method}_{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        train(config, out, arguments.resume, arguments.tensorboard, arguments.wandb)
    except Diverged as error:
        raise SystemExit(f"error: {error}; see {out}") from None
    except KeyboardInterrupt:
        print(f"\nstopped; go on with --out {out} --resume", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
