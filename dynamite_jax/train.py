"""Training: parse, build, compile, loop, report.

python -m dynamite_jax.train --env gridworld --method dynamite --seeds 4
"""

import contextlib
import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from rich.console import Console

from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.config import Config, ConfigError
from dynamite_jax.errors import one_line_errors, parse
from dynamite_jax.evaluate import evaluate, report
from dynamite_jax.runtime import devices, lock, loggers, loop, provenance, run_folder
from dynamite_jax.runtime.checkpoints import Checkpoints
from dynamite_jax.runtime.program import Program


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


def train(
    config: Config, out: Path, resume: bool = False, tensorboard: bool = False, wandb: bool = False
) -> loggers.Record:
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
        UserError: the config, `out` or its checkpoints can't be used.
        Diverged: a loss is not finite; the last good checkpoint stays.
    """
    start = time.perf_counter()
    first = jax.process_index() == 0  # of several processes the first one writes and talks
    console = Console(stderr=True, quiet=not first)
    env = configs.validate(config)
    if wandb:
        loggers.check_wandb()
    program = Program(config, env)
    with contextlib.ExitStack() as stack:
        if first:
            try:
                stack.enter_context(run_folder.claimed(out, config, resume))
            except run_folder.Finished as finished:
                console.print(str(finished), markup=False, soft_wrap=True)
                return run_folder.read_summary(out)
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(out / "checkpoints")))
        states, done, earlier_s = program.init(), 0, 0.0
        if resume and checkpoints.any():  # a run killed before its first checkpoint starts again
            done, seeds, damaged = checkpoints.restore(program.gather(states))
            states = program.spread(seeds)
            for line in damaged:
                console.print(f"warning: {line}; going on from chunk {done}", markup=False, soft_wrap=True)
            earlier = [record for record in loggers.read(out / "metrics.jsonl") if record["chunk"] <= done]
            earlier_s = earlier[-1]["wall_s"] if earlier else 0.0
        log = None
        if first:
            log = loggers.Log(out, done, tensorboard, wandb, dataclasses.asdict(config))
            stack.enter_context(contextlib.closing(log))
        if done < program.chunks:
            steps = program.chunks * program.steps_per_chunk
            line = f"{config.method} on {config.env}: {steps:,} steps a seed, {program.layout} -> {out}"
            line += f"; preset {presets.source(config)}; compiling"
            console.print(line, markup=False, soft_wrap=True)
            step = program.compile(states)
            console.print(f"compiled in {program.compile_s:.1f} s", markup=False)
            outputs = loop.Outputs(log, checkpoints, console)
            states = loop.run(program, step, states, done, outputs, start - earlier_s)
        checkpoints.wait()
        params = program.gather(states).agent_params
        sizes = {"episodes": config.eval_episodes, "seed": config.seed}
        result = evaluate(config, program.env, program.agent, params, **sizes)
        summary = _summary(program, result, out, earlier_s + time.perf_counter() - start)
        if first:
            report(result)
            run_folder.write_summary(out, summary)
        console.print(f"summary in {out / run_folder.SUMMARY}", markup=False, soft_wrap=True)
        return summary


def _summary(program: Program, result: loggers.Record, out: Path, wall_s: float) -> loggers.Record:
    records = loggers.read(out / "metrics.jsonl")
    config = program.config
    return {
        "env": config.env,
        "method": config.method,
        "preset": presets.source(config),
        "eval": result,
        "env_steps": program.chunks * program.steps_per_chunk,
        "steps_per_s": float(np.median([record["steps_per_s"] for record in records])),
        "compile_s": program.compile_s,
        "wall_s": wall_s,
        "peak_mb": devices.peak_mb(),
        "versions": provenance.versions(),
        "machine": devices.machine(),
        "commit": provenance.commit(),
    }


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
    if out is None and arguments.resume:
        raise ConfigError("out is not set; to resume it must be a run folder")
    devices.setup(config.seeds)
    for folder in [out] if out else run_folder.default_names(config):
        try:
            train(config, folder, arguments.resume, arguments.tensorboard, arguments.wandb)
            return
        except (run_folder.Taken, lock.Locked):  # by another run of this second
            if out:
                raise
        except loop.Diverged as error:
            raise SystemExit(f"error: {error}; see {folder}") from None
        except KeyboardInterrupt:
            print(f"\nstopped; go on with --out {folder} --resume", file=sys.stderr)
            raise SystemExit(130) from None


if __name__ == "__main__":
    main()
