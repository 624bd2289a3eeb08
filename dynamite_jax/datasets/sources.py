"""Who plays the episodes of a set: random actions, or agents of a run as they were at some time of its training."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax.config import Config
from dynamite_jax.data.types import AgentParams
from dynamite_jax.datasets import recording
from dynamite_jax.datasets.recording import Episodes
from dynamite_jax.runtime import loggers, run_folder
from dynamite_jax.runtime.checkpoints import Checkpoints
from dynamite_jax.runtime.program import Program

KINDS = ("random", "expert", "medium", "mixed")
LEAST_CHECKPOINTS = 5
"""Of a run that shows how its agents came to be."""


@dataclass(frozen=True)
class Policy:
    """A word that names who plays: `random`, or `expert:RUN`, `medium:RUN`, `mixed:RUN`, with `=WEIGHT` behind.

    Attributes:
        kind: one of `KINDS`.
        run: run folder; None of random actions.
        weight: share of the episodes, of the sum of all weights.
    """

    kind: str
    run: Path | None
    weight: float

    @classmethod
    def parse(cls, word: str) -> "Policy":
        """The policy that a word of the command line names.

        Raises:
            UserError: it names none.
        """
        match = re.fullmatch(r"(?P<kind>\w+)(:(?P<run>.+?))?(=(?P<weight>[0-9.]+))?", word)
        if match and match["kind"] in KINDS and (match["run"] is None) == (match["kind"] == "random"):
            try:
                weight = float(match["weight"] or 1.0)
            except ValueError:
                weight = 0.0
            if weight > 0:
                return cls(match["kind"], Path(match["run"]) if match["run"] else None, weight)
        raise UserError(
            f"policy is {word!r}; it must be random, or expert, medium or mixed of a run, as in mixed:runs/NAME, "
            "and a weight above 0 may follow, as in random=0.5"
        )


@dataclass(frozen=True)
class Played:
    """Who plays a shard.

    Attributes:
        word: the policy that it is of, in words.
        agent: number of the agent among the seeds of the run; None of random actions.
        chunk: of training after which the agent is taken.
        checkpoint: digest of the checkpoint that holds it.
    """

    word: str
    agent: int | None = None
    chunk: int | None = None
    checkpoint: str | None = None


class Run:
    """Agents of a run, as they were after the chunks whose checkpoints it has."""

    def __init__(self, folder: Path, episodes: int):
        """Read its config; checkpoints are read when they are asked for.

        Args:
            folder: of the run.
            episodes: that are played at once.

        Raises:
            UserError: there is no run or no checkpoint.
        """
        self.folder, self.config = folder, run_folder.read_config(folder)
        if not (folder / "checkpoints").is_dir():
            raise UserError(f"policy: {folder} has no checkpoints folder to play from")
        env = configs.environment(dataclasses.replace(self.config, eval_episodes=episodes))  # with room for as many
        self.program = Program(self.config, env)
        self._checkpoints = Checkpoints(folder / "checkpoints", keep=0, seeds=self.config.seeds)
        self.chunks = self._checkpoints.steps()
        if not self.chunks:
            raise UserError(f"policy: {folder} has no checkpoint to play from")
        self._params: dict[int, AgentParams] = {}
        self._digests: dict[int, str] = {}
        offline = self.config.setting == "offline"
        deterministic = offline and self.config.offline.learner == "td3bc"  # whose noise is not learnt
        play = partial(recording.of_agent, self.program.agent, self.program.env, deterministic=deterministic)
        self.play = jax.jit(play, static_argnums=1)  # (params, episodes, key)

    @cached_property
    def _like(self) -> AgentParams:
        return self.program.algorithm.agent_params(self.program.kept(self.program.init()))

    def played(self, word: str, agent: int, chunk: int) -> Played:
        """That an agent of the run plays.

        Raises:
            UserError: the checkpoint is damaged.
        """
        if chunk not in self._digests:
            self._digests[chunk] = self._checkpoints.digest(chunk)
        return Played(word, agent, chunk, self._digests[chunk])

    def params(self, chunk: int, agent: int) -> AgentParams:
        """Parameters of one agent after a chunk.

        Raises:
            UserError: the checkpoint is damaged.
        """
        if chunk not in self._params:
            self._params = {chunk: self._checkpoints.read(chunk, self._like)}
        return jax.tree.map(lambda x: x[agent], self._params[chunk])

    def medium(self) -> int:
        """The first chunk with a checkpoint at which the return is half-way from that of the first chunk to the last.

        Raises:
            UserError: too few checkpoints are kept.
        """
        self.check_kept()
        returns = {record["chunk"]: record["return_iqm"] for record in loggers.read(self.folder / "metrics.jsonl")}
        if missing := [chunk for chunk in self.chunks if chunk not in returns]:
            raise UserError(f"policy: {self.folder} has a checkpoint of chunk {missing[0]}, and no metrics of it")
        half = (returns[min(returns)] + returns[max(returns)]) / 2.0
        return next(chunk for chunk in self.chunks if returns[chunk] >= half or chunk == self.chunks[-1])

    def check_kept(self) -> None:
        """Refuse a run that does not show how its agents came to be.

        Raises:
            UserError: says how many checkpoints it has.
        """
        if len(self.chunks) < LEAST_CHECKPOINTS:
            raise UserError(
                f"policy: {self.folder} keeps {len(self.chunks)} checkpoints, and medium and mixed need "
                f"{LEAST_CHECKPOINTS}; train it with --checkpoints-kept 0"
            )


class Sources:
    """Who plays which shard of a set."""

    def __init__(self, words: Sequence[str], config: Config, env: DLCMDP, shard: int):
        """Open the runs.

        Args:
            words: policies, see `Policy`.
            config: names the environment that is played.
            env: it.
            shard: episodes of a shard.

        Raises:
            UserError: a word names no policy, or a run that is missing or of another environment.
        """
        self.env = env
        self.policies = {word: Policy.parse(word) for word in words}
        folders = dict.fromkeys(policy.run for policy in self.policies.values() if policy.run)
        self.runs = {folder: Run(folder, shard) for folder in folders}
        for folder, run in self.runs.items():
            if (run.config.env, run.config.env_options) != (config.env, config.env_options):
                raise UserError(
                    f"policy: {folder} is of {run.config.env} {dict(run.config.env_options)}; it must be of "
                    f"{config.env} {dict(config.env_options)}"
                )
        self._random = jax.jit(partial(recording.of_random_actions, env), static_argnums=0)

    def plan(self, shards: int) -> list[Played]:
        """Who plays each of so many shards: every policy its share, spread over the set.

        Raises:
            UserError: a run keeps too few checkpoints.
        """
        words = list(self.policies)
        weights = np.array([policy.weight for policy in self.policies.values()])
        shares = weights / weights.sum()
        given = np.zeros(len(words), int)
        plan = []
        for number in range(1, shards + 1):
            chosen = int(np.argmax(shares * number - given))
            plan.append((words[chosen], int(given[chosen])))
            given[chosen] += 1
        return [self._played(word, turn, int(given[words.index(word)])) for word, turn in plan]

    def _played(self, word: str, turn: int, turns: int) -> Played:
        """Who plays the shard number `turn` of the `turns` that a policy has."""
        policy = self.policies[word]
        if policy.run is None:
            return Played(word)
        run = self.runs[policy.run]
        agent = turn % run.config.seeds
        if policy.kind == "expert":
            return run.played(word, agent, run.chunks[-1])
        if policy.kind == "medium":
            return run.played(word, agent, run.medium())
        run.check_kept()
        return run.played(word, agent, run.chunks[int((turn + 0.5) / turns * len(run.chunks))])

    def play(self, played: Played, episodes: int, key: jax.Array) -> Episodes:
        """The episodes of a shard.

        Raises:
            UserError: a checkpoint is damaged.
        """
        policy = self.policies[played.word]
        if policy.run is None:
            return self._random(episodes, key)
        run = self.runs[policy.run]
        if played.agent is None or played.chunk is None:
            raise ValueError(f"no agent named for {played.word}")
        return run.play(run.params(played.chunk, played.agent), episodes, key)

    def described(self) -> list[dict[str, Any]]:
        """What the card says of the policies: the words, and of runs their configs and chunks."""
        return [
            {
                "policy": word,
                "weight": policy.weight,
                "config": configs.to_dict(self.runs[policy.run].config) if policy.run else None,
            }
            for word, policy in self.policies.items()
        ]
