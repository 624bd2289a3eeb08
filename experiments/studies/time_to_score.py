"""After how many seconds of training the deterministic policy reached fractions of Bayes-optimal.

Its checkpoints are played after the run, so that playing costs no time of training; writing them does:

make train ARGS="--checkpoint-every 1 --checkpoints-kept 0 --out runs/mine"
python -m experiments.studies.time_to_score --run runs/mine
"""

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dynamite_envs import exact
from dynamite_envs.errors import UserError
from dynamite_jax.analysis.references import references
from dynamite_jax.analysis.rollouts import play_episodes
from dynamite_jax.datasets.sources import Run
from dynamite_jax.errors import one_line_errors, parse
from dynamite_jax.runtime import devices, loggers, run_folder


@dataclass(frozen=True)
class Arguments:
    """When the deterministic policy of a run reached fractions of Bayes-optimal, by its checkpoints, as JSON lines."""

    run: Path
    """Run folder, with a checkpoint of every chunk."""
    episodes: int = 512
    """Episodes of each seed that are played with every checkpoint."""
    fractions: tuple[float, ...] = (0.97, 0.99)
    """Of Bayes-optimal, the mean of the seeds."""
    seed: int = 1_000_000
    """Root of the contexts and start states."""


def curve(folder: Path, episodes: int, seed: int) -> list[dict[str, Any]]:
    """What the policies of a run returned after each chunk.

    Args:
        folder: of the run.
        episodes: of each seed, the same for every chunk.
        seed: root of their contexts and start states.

    Returns:
        For each checkpoint: `chunk`, `env_steps`, `seconds` since the first chunk began, `wall_s` since the run did,
        compiling included, and `fraction`, the mean return of the seeds over that of the Bayes-optimal policy.

    Raises:
        UserError: there is no such run, it has gone on after a stop, the optimum is not known, or a checkpoint is
            missing or damaged.
    """
    run = Run(folder, episodes)
    best = references(exact.find(run.program.env)).get("bayes_optimal")
    if best is None or best <= 0.0:
        raise UserError(
            f"run is of {run.config.env}, whose Bayes-optimal return is {best}; it must be known, and above 0"
        )
    if len(run_folder.origins(folder)) > 1:
        raise UserError(
            f"run is {str(folder)!r}, which was stopped and went on; its seconds are not those of a whole run"
        )
    if not (records := loggers.read(folder / "metrics.jsonl")):
        raise UserError(f"run is {str(folder)!r}, which has no metrics.jsonl with the seconds of its chunks")
    if missing := {record["chunk"] for record in records} - set(run.chunks):
        raise UserError(
            f"run keeps no checkpoint of chunk {min(missing)}; train it with --checkpoint-every 1 --checkpoints-kept 0"
        )
    reset_key, action_key = jax.random.split(jax.random.key(seed))
    play = partial(play_episodes, run.program.agent, run.program.env, episodes=episodes)
    returns = jax.jit(
        lambda params: play(params, reset_key=reset_key, action_key=action_key).rollout.reward.sum(0).mean()
    )
    first = records[0]
    began = first["wall_s"] - first["env_steps"] * run.config.seeds / first["steps_per_s"]
    points = []
    for record in records:
        chunk, seeds = record["chunk"], range(run.config.seeds)
        mean = float(np.mean([returns(run.params(chunk, agent)) for agent in seeds]))
        times = {"seconds": record["wall_s"] - began, "wall_s": record["wall_s"]}
        points.append({"chunk": chunk, "env_steps": record["env_steps"], **times, "fraction": mean / best})
    return points


def reached(points: list[dict[str, Any]], fraction: float) -> dict[str, Any] | None:
    """The first point of a curve at a fraction of Bayes-optimal; None where there is none."""
    return next((point for point in points if point["fraction"] >= fraction), None)


@one_line_errors
def main() -> None:
    """Print a line for each chunk, and one for each fraction: the first chunk that reached it."""
    arguments = parse(Arguments, sys.argv[1:])
    if arguments.episodes < 1:
        raise UserError(f"episodes is {arguments.episodes}; it must be 1 or more")
    devices.setup(1)
    points = curve(arguments.run, arguments.episodes, arguments.seed)
    for point in points:
        print(json.dumps(point))
    for fraction in arguments.fractions:
        print(json.dumps({"reached": fraction, "at": reached(points, fraction)}))


if __name__ == "__main__":
    main()
