"""A race of settings by successive halving: rung by rung the better part goes on from where it is.

All trials have the schedule of the full run (annealing, waiting) from their start. Those that share the structure of
their program train side by side; after each rung the states of those that go on are gathered into a smaller program.
"""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from dynamite_jax import config as configs
from dynamite_jax.analysis.evaluation import evaluate
from dynamite_jax.config import Config
from dynamite_jax.runtime.candidates import Setting
from dynamite_jax.runtime.program import Program


@dataclass
class Outcome:
    """What a race found; lists are in the order of the settings.

    Attributes:
        steps: environment steps of an agent by the end of each rung.
        scores: of each setting, its mean return in training up to the end of each rung that it ran: the area under
            its curve over the steps so far.
        returns: of the deterministic policy, of those that ran to the end; nan of others.
        training_s: seconds of executing chunks.
        compiling_s: seconds of compiling them.
    """

    steps: list[int]
    scores: list[list[float]]
    returns: list[float]
    training_s: float = 0.0
    compiling_s: float = 0.0


def stops(chunks: int, rungs: int) -> list[int]:
    """Chunks after which each rung ends: the last after all, each before it after half of the next, rounded up."""
    return [math.ceil(chunks / 2 ** (rungs - rung)) for rung in range(1, rungs + 1)]


def better(scores: dict[int, float], keep: float) -> list[int]:
    """Numbers of the trials that go on: a fraction `keep` of all, rounded up, of the best whose score is finite."""
    count = math.ceil(round(keep * len(scores), 6))
    finite = [trial for trial, score in scores.items() if math.isfinite(score)]
    return sorted(finite, key=lambda trial: scores[trial], reverse=True)[:count]


def race(
    config: Config, settings: Sequence[Setting], *, rungs: int = 1, keep: float = 1.0, progress: bool = True
) -> Outcome:
    """Train all settings on the first rung, and on each other rung the better part of those before it.

    The score of a trial on a rung is its mean return in training from the start to there, the area under its curve;
    all trials are ranked together. A trial with a loss that is not finite has none and is out.

    Args:
        config: the run of a trial; `seeds` is the number of its agents, `seed` their root.
        settings: changes of the config, all of the same fields.
        rungs: number of rungs, see `stops`.
        keep: part of a rung's trials that goes on.
        progress: whether to show a bar; only one thread at a time can.
    """
    outcome = Outcome([], [[] for _ in settings], [math.nan] * len(settings))
    groups = [_Group(config, members, outcome) for members in _alike(config, settings)]
    ends = stops(groups[0].program.chunks, rungs)
    outcome.steps = [stop * groups[0].program.steps_per_chunk for stop in ends]
    for start, stop in itertools.pairwise([0, *ends]):
        scores: dict[int, float] = {}
        for group in groups:
            scores |= group.train(stop - start, progress)
        for trial, mean in scores.items():
            before = outcome.scores[trial][-1] if start else 0.0
            scores[trial] = (start * before + (stop - start) * mean) / stop
            outcome.scores[trial].append(scores[trial])
        if stop < ends[-1]:
            remaining = set(better(scores, keep))
            groups = [group.only(remaining) for group in groups if remaining & group.settings.keys()]
    for group in groups:
        for trial, value in group.returns().items():
            outcome.returns[trial] = value
    return outcome


def _alike(config: Config, settings: Sequence[Setting]) -> list[dict[int, Setting]]:
    """Settings by their numbers, those together that differ in traced numbers only."""
    groups: dict[Any, dict[int, Setting]] = {}
    for number, setting in enumerate(settings):
        changed = configs.changed(config, setting)
        groups.setdefault(jax.tree.structure((changed.vae, changed.ppo)), {})[number] = setting
    return list(groups.values())


class _Group:
    """Trials that train side by side in one program, compiled when it is made.

    Attributes:
        settings: number of each trial -> its setting, in the order of its agents in the program.
        program: of all of their agents.
    """

    def __init__(self, config: Config, settings: dict[int, Setting], outcome: Outcome, seeds: Any = None):
        """Start the trials, or go on from the states `seeds` of their agents, [seeds, ...]."""
        self._config, self.settings, self._outcome = config, settings, outcome
        of_trials = [configs.changed(config, setting) for setting in settings.values()]
        together = dataclasses.replace(of_trials[0], seeds=config.seeds * len(settings))
        self.program = Program(together, configs.validate(together))
        if seeds is None:
            self._states = self.program.init(ids=[*range(config.seeds)] * len(settings))
        else:
            self._states = self.program.spread(seeds)
        self._step: Callable = self.program.compile(self._states, _hyper(of_trials, config.seeds))
        outcome.compiling_s += self.program.compile_s

    def train(self, chunks: int, progress: bool) -> dict[int, float]:
        """Train for some chunks; the mean return of each trial over them, nan where a loss was not finite."""
        returns = []
        bar = f"{len(self.settings)} trials of {self._config.method}"
        start = time.perf_counter()
        for _ in track(range(chunks), description=bar, disable=not progress):
            self._states, metrics = self._step(self._states)
            returns.append(jax.device_get(metrics["return"]))  # waits for the chunk
        self._outcome.training_s += time.perf_counter() - start
        return self._of_trials(np.mean(returns, axis=0))

    def only(self, trials: set[int]) -> "_Group":
        """Those of the trials that are named, as they are now."""
        if self.settings.keys() <= trials:
            return self
        agents = [
            place * self._config.seeds + seed
            for place, trial in enumerate(self.settings)
            if trial in trials
            for seed in range(self._config.seeds)
        ]
        settings = {trial: setting for trial, setting in self.settings.items() if trial in trials}
        return _Group(self._config, settings, self._outcome, self.program.gather(self._states, agents))

    def returns(self) -> dict[int, float]:
        """Mean return of each trial's deterministic policies, nan where a loss was not finite."""
        params = self.program.algorithm.agent_params(self.program.gather(self._states))
        result = evaluate(self.program, params, episodes=self._config.eval_episodes, seed=self._config.seed)
        return self._of_trials(result["return"]["per_seed"])

    def _of_trials(self, values: Any) -> dict[int, float]:
        """Means over each trial's agents of values, [seeds], nan where a loss was not finite."""
        finite = jax.device_get(self.program.gather(self._states.faults.count)) == 0
        means = np.where(finite, values, np.nan).reshape(len(self.settings), -1).mean(1)
        return dict(zip(self.settings, map(float, means), strict=True))


def _hyper(of_trials: Sequence[Config], seeds: int) -> Any:
    """Traced hyperparameters of all agents, leaves [seeds]."""

    def stack(*values: float) -> jax.Array:
        return jnp.asarray(values, jnp.float32)

    return jax.tree.map(stack, *[(trial.vae, trial.ppo) for trial in of_trials for _ in range(seeds)])
