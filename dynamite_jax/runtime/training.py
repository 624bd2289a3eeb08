"""A run from its config to its summary: claim the folder, compile, train chunk by chunk, evaluate."""

import contextlib
import dataclasses
import itertools
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from rich.console import Console

from dynamite_envs import registry
from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.analysis.evaluation import evaluate
from dynamite_jax.analysis.report import report
from dynamite_jax.config import Config
from dynamite_jax.data.types import AgentParams
from dynamite_jax.runtime import devices, loggers, loop, processes, provenance, run_folder
from dynamite_jax.runtime.program import Program

if TYPE_CHECKING:
    from dynamite_jax.datasets.windows import Windows

PROFILE = "profile"

MAX_LEFT_OUT = 0.01
"""Part of a seed's meta-updates that may have been left out, less than this, where a run has succeeded."""


def train(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    tensorboard: bool = False,
    wandb: bool = False,
    profile: bool = False,
    share_envs: int | None = None,
    refuse_long: bool = False,
) -> loggers.Record:
    """Train, evaluate and write a run folder.

    Args:
        config: the run.
        out: run folder.
        resume: continue the run in `out` from its newest valid checkpoint.
        tensorboard: write TensorBoard events.
        wandb: write to Weights & Biases.
        profile: write a trace of the second chunk of this process into `out`.
        share_envs: devices that share the environments of each seed, see `Program`.
        refuse_long: whether a first chunk that takes too long ends the run, see `loop.run`.

    Returns:
        The summary, as in summary.json.

    Raises:
        UserError: the config, `out` or its checkpoints can't be used.
        Diverged: something is not finite; the last good checkpoint stays.
        Interrupted: SIGTERM or SIGINT came while it trained; it goes on from where it stopped.
        LongChunk: the first chunk took too long, where that is refused; the folder is that of a run without a chunk.
    """
    from dynamite_jax.runtime.checkpoints import Checkpoints  # here, since orbax takes long to import

    start = time.perf_counter()
    is_writer = processes.is_first()
    console = Console(stderr=True, quiet=not is_writer)
    config = run_folder.continued(config, out) if resume else config
    program, recorded = _program(config, share_envs)
    config = program.config
    provenance.code()  # remembers the files as they are now; they may be edited while the run goes on
    if wandb:
        loggers.check_wandb()
    with contextlib.ExitStack() as stack:
        if not processes.by_first(partial(_claim, stack, out, config, resume, console)):
            return run_folder.read_summary(out)
        processes.check_shared(out / "config.json")
        checkpoints = stack.enter_context(
            contextlib.closing(Checkpoints(out / "checkpoints", config.checkpoints_kept, config.seeds))
        )
        states, completed_chunks, earlier_s = program.init(), 0, 0.0
        if resume and processes.by_first(checkpoints.any):  # a run killed before its first checkpoint starts again
            completed_chunks, kept, damaged = checkpoints.restore(program.kept(states))
            states = program.spread(kept)
            for line in damaged:
                console.print(f"warning: {line}; going on from chunk {completed_chunks}", markup=False, soft_wrap=True)
            earlier = [record for record in loggers.read(out / "metrics.jsonl") if record["chunk"] <= completed_chunks]
            earlier_s = earlier[-1]["wall_s"] if earlier else 0.0
        log = None
        if is_writer:
            fields = dataclasses.asdict(config)
            _note_origin(out, completed_chunks, console)
            log = loggers.Log(out, completed_chunks, tensorboard=tensorboard, wandb=wandb, config=fields)
            stack.enter_context(contextlib.closing(log))
        if completed_chunks < program.chunks:
            if recorded:
                program.worlds = recorded.worlds(program, completed_chunks)
            steps = program.chunks * program.steps_per_chunk
            line = f"{config.method} on {config.env}: {steps:,} steps a seed, {program.layout} -> {out}"
            line += f"; preset {presets.source(config)}{_physics(config)}; compiling"
            console.print(line, markup=False, soft_wrap=True)
            step = program.compile(states)
            console.print(f"compiled in {program.compile_s:.1f} s", markup=False)
            outputs = loop.Outputs(log, checkpoints, console, profile=out / PROFILE if profile and is_writer else None)
            states = loop.run(
                program,
                step,
                states,
                outputs=outputs,
                start=start - earlier_s,
                completed_chunks=completed_chunks,
                refuse_long=refuse_long,
            )
        checkpoints.wait()
        params = program.algorithm.agent_params(program.kept(states))
        result = evaluate(program, params, episodes=config.eval_episodes, seed=config.seed)
        left_out = jax.device_get(program.gather(states.faults.count)).tolist()

        def conclude() -> bool:
            wall_s = earlier_s + time.perf_counter() - start
            summary = _summary(program, result, out, wall_s=wall_s)
            summary |= {"left_out": left_out, "checkpoint_s": checkpoints.seconds}
            report(result)
            run_folder.write_summary(out, summary)
            return True

        processes.by_first(conclude)
        processes.check_shared(out / run_folder.SUMMARY)
        console.print(f"summary in {out / run_folder.SUMMARY}", markup=False, soft_wrap=True)
        return run_folder.read_summary(out)


def train_shortened(config: Config, out: Path, **options: Any) -> loggers.Record:
    """As `train`, and anew with shorter chunks where the first one takes longer than schedulers leave a run that stops.

    Args:
        config: the run.
        out: run folder.
        **options: of `train`, without `resume`.
    """
    try:
        return train(config, out, refuse_long=True, **options)
    except loop.LongChunk as long:
        seconds, length = long.seconds, long.length  # without its frames, which hold the states
    config = dataclasses.replace(run_folder.read_config(out), chunk=length)
    line = f"a chunk takes {loop.duration(seconds)}, and a run that shall stop is kept when its chunk ends: "
    line += f"beginning anew with chunks of {length} meta-updates; with --chunk named they stay as they are"
    Console(stderr=True, quiet=not processes.is_first()).print(line, markup=False, soft_wrap=True)
    processes.by_first(partial(run_folder.replace_config, out, config))
    return train(config, out, resume=True, **options)


def check_left_out(summary: loggers.Record) -> None:
    """Refuse a run, by its summary, that has left out too much.

    Raises:
        Diverged: names the seed with most meta-updates left out, where they are 1 % of them or more.
    """
    left_out = summary.get("left_out", [0])  # summaries of earlier schemas have none
    most, seed = max((count, -seed) for seed, count in enumerate(left_out))
    if most and most >= MAX_LEFT_OUT * summary["meta_updates"]:
        line = f"{most} of {summary['meta_updates']} meta-updates of seed {-seed} were left out"
        raise loop.Diverged(f"{line}, and a run has failed from {MAX_LEFT_OUT:.0%} on; its summary is written")


def _program(config: Config, share_envs: int | None) -> tuple[Program, "Windows | None"]:
    """The program of a run and, offline, the episodes that it learns from."""
    env = configs.validate(config)
    if config.setting == "online":
        return Program(config, env, share_envs), None
    if processes.count() > 1:
        raise UserError(f"setting is {config.setting!r}; in several processes it must be 'online'")
    from dynamite_jax.datasets.windows import Windows  # here, since online runs don't depend on it

    windows = Windows.of_config(config, env)
    return Program(windows.dataset.settled(config), env, share_envs), windows


def _claim(stack: contextlib.ExitStack, out: Path, config: Config, resume: bool, console: Console) -> bool:
    """Claim the folder until the stack ends; False where its run is finished."""
    try:
        stack.enter_context(run_folder.claimed(out, config, resume))
    except run_folder.Finished as finished:
        console.print(str(finished), markup=False, soft_wrap=True)
        return False
    return True


def _note_origin(out: Path, completed_chunks: int, console: Console) -> None:
    """Note which program goes on with a run, and warn where other code has begun it."""
    run_folder.note_origin(out, completed_chunks)
    for origin, following in itertools.pairwise(run_folder.origins(out)):
        if not provenance.is_todays(origin["code"]):
            chunks = f"{origin['completed_chunks'] + 1} to {following['completed_chunks']}"
            line = f"warning: chunks {chunks} of this run were made by other code, of commit {origin['commit']}"
            console.print(line, markup=False, soft_wrap=True)


def _physics(config: Config) -> str:
    """The backend of the physics in words, nothing of an environment without any."""
    names = {"c": "C MuJoCo", "jax": "MJX", "warp": "MuJoCo Warp"}
    return f"; physics by {names[config.physics.impl]}" if registry.has_physics(config.env) else ""


def train_in_memory(config: Config, share_envs: int | None = None) -> tuple[Program, AgentParams, list[loggers.Record]]:
    """Train and write nothing.

    Args:
        config: the run.
        share_envs: devices that share the environments of each seed, see `Program`.

    Returns:
        The program; parameters and statistics of every seed's agent, [seeds, ...]; and a record for each chunk.

    Raises:
        UserError: the config can't be run.
        Diverged: something is not finite.
    """
    start, console = time.perf_counter(), Console(stderr=True)
    program, recorded = _program(config, share_envs)
    if recorded:
        program.worlds = recorded.worlds(program)
    states = program.init()
    step, log = program.compile(states), loggers.Memory()
    states = loop.run(program, step, states, outputs=loop.Outputs(log, None, console), start=start)
    return program, program.algorithm.agent_params(program.gather(states)), log.records


def _summary(program: Program, result: loggers.Record, out: Path, *, wall_s: float) -> loggers.Record:
    records = loggers.read(out / "metrics.jsonl")
    config = program.config
    return {
        "env": config.env,
        "method": config.method,
        "preset": presets.source(config),
        "eval": result,
        "env_steps": program.chunks * program.steps_per_chunk,
        "meta_updates": program.chunks * config.chunk,
        **{name: program.chunks * config.chunk * n for name, n in program.algorithm.counts(program.env).items()},
        "steps_per_s": float(np.median([record["steps_per_s"] for record in records])),
        "compile_s": program.compile_s,
        "wall_s": wall_s,
        "peak_mb": devices.peak_mb(),
        "versions": provenance.versions(),
        "machine": devices.machine(),
        "commit": provenance.commit(),
        "code": provenance.code(),
    }
