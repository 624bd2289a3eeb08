"""Returns during training, and the CSV files that keep those of a table."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynamite_envs.errors import UserError
from dynamite_jax.runtime.loggers import Record


class Curve(NamedTuple):
    """Returns of one run while it trained, of policies that still explore.

    Attributes:
        steps: environment steps of a seed at the end of each chunk, [C].
        returns: mean return of the episodes of a chunk, [C, seeds].
    """

    steps: np.ndarray
    returns: np.ndarray


def of(records: Iterable[Record]) -> Curve:
    """The curve in the metrics of a run, one record a chunk."""
    steps, returns = zip(*((record["env_steps"], record["return"]) for record in records), strict=True)
    return Curve(np.array(steps), np.array(returns, float))


def steps_to(curve: Curve, threshold: float) -> Record:
    """Environment steps of each seed at the end of the first chunk whose mean return reaches a threshold.

    Returns:
        `per_seed`, None where a seed never does; `median` over the seeds, of an even number the later
        of the two in the middle; None where that seed does not.
    """
    reached = curve.returns >= threshold  # [C, seeds]
    steps = np.where(reached.any(0), curve.steps[reached.argmax(0)], np.inf)
    median = float(np.quantile(steps, 0.5, method="higher"))
    per_seed = [int(value) if np.isfinite(value) else None for value in steps]
    return {"per_seed": per_seed, "median": int(median) if np.isfinite(median) else None}


def beside(file: Path) -> Path:
    """Where the curves of a table NAME.json are: NAME_curves.csv."""
    return file.with_name(f"{file.stem}_curves.csv")


def write(curves: Mapping[str, Curve], path: Path) -> None:
    """Write curves by their names, one or more: a line for each chunk of each run, with returns to five digits."""
    seeds = max(curve.returns.shape[1] for curve in curves.values())
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["run", "env_steps", *(f"return_{seed}" for seed in range(seeds))])
        for name, curve in curves.items():
            for steps, returns in zip(curve.steps, curve.returns, strict=True):
                writer.writerow([name, int(steps), *(f"{value:.5g}" for value in returns)])


def read(path: Path) -> dict[str, Curve]:
    """The way back from `write`; nothing where there is no file.

    Raises:
        UserError: it is no such file.
    """
    if not path.is_file():
        return {}
    lines: dict[str, list[tuple[int, list[float]]]] = {}
    try:
        with path.open(newline="") as file:
            _, *rows = csv.reader(file)
        for name, steps, *returns in rows:
            lines.setdefault(name, []).append((int(steps), [float(value) for value in returns if value]))
        return {name: Curve(*map(np.array, zip(*points, strict=True))) for name, points in lines.items()}
    except ValueError:
        raise UserError(f"out: {str(path)!r} holds no curves; move it away") from None
