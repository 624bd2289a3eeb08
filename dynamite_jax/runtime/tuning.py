"""Tuning of a preset: a race of settings around it, finalists on other seeds, and the record of the choice."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.config import Config
from dynamite_jax.errors import writing
from dynamite_jax.runtime import candidates, devices, provenance, racing
from dynamite_jax.runtime.candidates import Setting
from dynamite_jax.runtime.loggers import Record

ROOT = 1000  # root seed of trials, that of finalists is one more; results are reported from root seed 1


def check(preset: Config, *, trials: int, seeds: int, rungs: int, keep: float, finalists: int) -> None:
    """Refuse a search that can't be made; nothing is compiled. The arguments are those of `tune`.

    Raises:
        UserError: names the field, its value and what is allowed.
    """
    for name, value in {"trials": trials, "seeds": seeds, "rungs": rungs, "finalists": finalists}.items():
        if value < 1:
            raise UserError(f"{name} is {value}; it must be 1 or more")
    if not 0 < keep <= 1:
        raise UserError(f"keep is {keep}; it must be above 0 and at most 1")
    horizon = configs.validate(preset).horizon
    chunks = preset.meta_updates(horizon) // preset.chunk
    most = 2 + int(math.log2(chunks - 1)) if chunks > 1 else 1
    if rungs > most:
        steps = f"{chunks} x {preset.chunk * preset.num_envs * horizon}"
        raise UserError(f"rungs is {rungs}; with {preset.steps} steps, in chunks {steps}, it must be at most {most}")


def tune(
    preset: Config,
    *,
    trials: int = 24,
    seeds: int = 2,
    rungs: int = 3,
    keep: float = 0.5,
    finalists: int = 2,
    progress: bool = True,
) -> Record:
    """Race settings around a preset, train the best of them again on other seeds, and choose among these.

    Several threads may call it at once, with `progress` off; nothing is written.

    Args:
        preset: of a method, with the steps of a full run.
        trials: number of settings to try, the preset's own among them.
        seeds: agents of each trial; a finalist has twice as many.
        rungs: stages of the race; each ends after twice as many steps as the one before, the last after all.
        keep: part of the trials of a rung that goes on to the next.
        finalists: number of best trials that train again.
        progress: whether to show bars.

    Returns:
        The record that `write` makes the new preset.

    Raises:
        UserError: the search can't be made; or no trial, or no finalist, ended with finite losses.
    """
    check(preset, trials=trials, seeds=seeds, rungs=rungs, keep=keep, finalists=finalists)
    trial = dataclasses.replace(preset, seeds=seeds, seed=ROOT)
    final = dataclasses.replace(preset, seeds=2 * seeds, seed=ROOT + 1)
    settings = candidates.draw(trial, candidates.belief_of(trial), trials, seed=ROOT)
    first = racing.race(trial, settings, rungs=rungs, keep=keep, progress=progress)
    best = [settings[number] for number in racing.better(_ended(first), 1.0)[:finalists]]
    if not best:
        raise UserError(f"method is {preset.method!r}; every trial of it ended in a loss that is not finite")
    second = racing.race(final, best, progress=progress)
    ranked = racing.better(_ended(second), 1.0)
    if not ranked:
        raise UserError(f"method is {preset.method!r}; every finalist of it ended in a loss that is not finite")
    return {
        "env": preset.env,
        "method": preset.method,
        "changes": presets.tuned_changes(preset) | best[ranked[0]],
        "trials": presets.tuning_trials(preset) + trials,
        "root_seeds": [trial.seed, final.seed],
        "agents": [trial.seeds, final.seeds],
        "steps": [trial.steps, final.steps],
        "rungs": first.steps,
        "keep": keep,
        "searched": [{**one, "steps": first.steps[len(one["scores"]) - 1]} for one in _described(first, settings)],
        "finalists": _described(second, best),
        "seconds": {
            "training": first.training_s + second.training_s,
            "compiling": first.compiling_s + second.compiling_s,
        },
        "machine": devices.machine(),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
    }


def write(record: Record, folder: Path) -> Path:
    """Make a record the preset of its environment and method, where runs look for one in `folder`.

    Returns:
        Its path.

    Raises:
        UserError: it can't be written.
    """
    path = folder / f"{record['env']}_{record['method']}.json"
    with writing(path):
        path.write_text(json.dumps(record, indent=2) + "\n")
    return path


def _ended(outcome: racing.Outcome) -> dict[int, float]:
    """The last scores of the settings that ran to the end, by number; nan where a loss was not finite."""
    return {number: scores[-1] for number, scores in enumerate(outcome.scores) if len(scores) == len(outcome.steps)}


def _described(outcome: racing.Outcome, settings: Sequence[Setting]) -> list[Record]:
    """Settings, each with its scores and its return, None where there is none."""
    return [
        {"return": value, "scores": _finite(scores), **setting}
        for value, scores, setting in zip(_finite(outcome.returns), outcome.scores, settings, strict=True)
    ]


def _finite(values: Sequence[float]) -> list[float | None]:
    """The same with None, which JSON has, for what is not finite."""
    return [value if math.isfinite(value) else None for value in values]
