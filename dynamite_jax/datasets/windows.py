"""Recorded episodes on the devices: all of them, or one window after the other where they are too many."""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_envs.errors import UserError
from dynamite_jax.algorithms.offline import Recorded
from dynamite_jax.config import Config
from dynamite_jax.datasets.dataset import Dataset, joined
from dynamite_jax.datasets.recording import Episodes

if TYPE_CHECKING:
    from dynamite_jax.runtime.program import Program

MOST_BYTES = 2**30
"""Of the episodes of a window; while one is learnt from, the next one is read."""


@dataclass(frozen=True)
class Windows:
    """What the chunks of a run learn from.

    Attributes:
        dataset: all episodes.
        physics: whether physical states are needed, too.
        seed: root of the order in which windows come.
        most_bytes: of the episodes of a window, which has one shard at least.
    """

    dataset: Dataset
    physics: bool
    seed: int
    most_bytes: int = MOST_BYTES

    @classmethod
    def of_config(cls, config: Config, env: DLCMDP) -> "Windows":
        """The episodes that a run learns from.

        Raises:
            UserError: they are missing, incomplete, or not of the run's environment; they hold no physical states,
                where it relabels; or they are not those of the run any more.
        """
        dataset, offline = Dataset.open(Path(config.offline.data), env), config.offline
        for name, here in (("env", config.env), ("env_options", dict(config.env_options))):
            if dataset.card[name] != here:
                whose = f"the episodes in {dataset.folder} are of {name} {dataset.card[name]}"
                raise UserError(f"offline.data: {whose}, and the run is of {here}")
        if offline.relabel and not dataset.card["physics"]:
            raise UserError(
                f"offline.relabel is {offline.relabel}; the episodes in {dataset.folder} hold no physical states, so "
                "it must be 0"
            )
        if offline.digest not in ("", dataset.digest):
            raise UserError(
                f"offline.data: the episodes in {dataset.folder} have changed since the run began: their digest is "
                f"{dataset.digest}, not {offline.digest}"
            )
        dataset.verify()
        return cls(dataset, physics=offline.relabel > 0, seed=config.seed)

    def worlds(self, program: "Program", completed_chunks: int = 0) -> Iterator[Recorded]:
        """What each chunk learns from, beginning behind those that are completed.

        Sets that fit into a window stay on the devices. Of others each window is a whole number of shards; in one
        pass they come in an order that the root seed and the number of the pass fix, so that a run that goes on sees
        the same.

        Raises:
            UserError: a file is damaged, or shards of a set that does not fit are not all as large.
        """
        if self.shards >= len(self.dataset.shards):
            episodes = program.replicated(self.read(range(len(self.dataset.shards))))
            yield from itertools.repeat(Recorded(program.env, episodes))
        sizes = sorted({shard["episodes"] for shard in self.dataset.shards})
        if len(sizes) > 1:
            most = f"{self.most_bytes / 2**20:.0f} MiB"
            raise UserError(
                f"offline.data: shards of {self.dataset.folder} have {sizes[0]} to {sizes[-1]} episodes; in a set of "
                f"more than {most} all must have as many"
            )
        with ThreadPoolExecutor(max_workers=1) as reader:
            windows = itertools.islice(self.order(), completed_chunks, None)
            following = reader.submit(self.read, next(windows))
            for window in windows:
                episodes, following = following.result(), reader.submit(self.read, window)
                yield Recorded(program.env, program.replicated(episodes))

    @cached_property
    def shards(self) -> int:
        """Of a window."""
        return max(1, self.most_bytes // sum(x.nbytes for x in jax.tree.leaves(self.read([0]))))

    def order(self) -> Iterator[Sequence[int]]:
        """Numbers of the shards of each window, without end; what one pass leaves over waits for another."""
        count = len(self.dataset.shards)
        for turn in itertools.count():
            shuffled = np.random.default_rng((self.seed, turn)).permutation(count).tolist()
            for first in range(0, count - self.shards + 1, self.shards):
                yield shuffled[first : first + self.shards]

    def read(self, numbers: Sequence[int]) -> Episodes:
        """Some shards as one, on the host."""
        episodes = joined([self.dataset.read(number) for number in numbers])
        return episodes if self.physics else episodes.replace(physics=None)
