"""Arguments that several commands have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamite_jax import rules
from dynamite_jax.config import Config
from dynamite_jax.errors import Plugins, check_folder
from dynamite_jax.runtime import run_folder


@dataclass(frozen=True, kw_only=True)
class RunsArguments(Plugins):
    """Arguments that choose runs to show beside each other."""

    runs: tuple[Path, ...]
    """Run folders; all of one environment."""
    labels: tuple[str, ...] = ()
    """A name for each run; by default its method, with its folder where that would not tell runs apart."""


@dataclass(frozen=True, kw_only=True)
class EpisodeArguments(Plugins):
    """Arguments that choose an agent and an episode."""

    seed: int = 0
    """Number of the agent among the seeds of a run."""
    episode: int = 0
    """Which fresh episode: a root of its contexts and start."""

    def check(self, runs: Sequence[Path], of_runs: Sequence[Config], out: Path) -> None:
        """Refuse what would be found out only after an episode is played.

        Raises:
            UserError: there is no such agent, episode or folder of `out`.
        """
        run_folder.check_seed(self.seed, runs, of_runs)
        rules.check_root("episode", self.episode)
        check_folder(out)
