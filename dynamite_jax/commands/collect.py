"""The command that records episodes to learn from.

dynamite-jax collect --env gridworld --policy mixed:runs/NAME --out data/gridworld_mixed
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax.config import Config
from dynamite_jax.errors import Plugins, one_line_errors, parse
from dynamite_jax.runtime import devices

if TYPE_CHECKING:
    from dynamite_jax.datasets.dataset import Dataset


@dataclass(frozen=True)
class Arguments(Plugins):
    """Record episodes as a set of shards with a card; the same command goes on with one that was cut off."""

    out: Path
    """Folder to write, new or that of the same collection."""
    env: str = "gridworld"
    """Environment."""
    env_options: tuple[str, ...] = ()
    """Its options, as name=value with JSON values."""
    policy: tuple[str, ...] = ("random",)
    """Who plays: `random`, or of a run `expert:RUN` (its agents at the end), `medium:RUN` (half-way to that return) or
    `mixed:RUN` (all its checkpoints alike). Several share the episodes, by weights as in `random=0.3 expert:RUN=0.7`.
    The last two need a run trained with `--checkpoints-kept 0`."""
    episodes: int = 4096
    """How many to record, a multiple of `shard`."""
    shard: int = 64
    """Episodes of a shard."""
    seed: int = 1
    """Root of all random streams."""


@one_line_errors
def main() -> None:
    """Collect, print the statistics and the path."""
    arguments = parse(Arguments, sys.argv[1:])
    for name in ("episodes", "shard"):
        if (value := getattr(arguments, name)) < 1:
            raise UserError(f"{name} is {value}; it must be 1 or more")
    if arguments.episodes % arguments.shard:
        raise UserError(f"episodes is {arguments.episodes}; it must be a multiple of shard, {arguments.shard}")
    if not arguments.policy:
        raise UserError("policy is empty; name one policy or more, as in random")
    from dynamite_jax import rules

    rules.check_root("seed", arguments.seed)
    rules.check_names(arguments.env, "dynamite")
    from dynamite_jax import presets

    config: Config = configs.changed(
        presets.default(arguments.env, "dynamite"),
        {"env_options": configs.parse_options(arguments.env_options), "eval_episodes": arguments.shard},
    )
    devices.setup(1)
    from dynamite_jax.datasets import collection

    env = configs.environment(config)
    request = collection.Request(config, arguments.policy, arguments.episodes, arguments.shard, arguments.seed)
    with progress("collecting") as say:
        dataset = collection.collect(request, env, arguments.out, say)
    show(dataset, f"{arguments.env}: {' '.join(arguments.policy)}")
    print(arguments.out)


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal that is told how many of how many shards are done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bars:
        bar = bars.add_task(what)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def show(dataset: "Dataset", title: str) -> None:
    """Print the statistics of a set."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False)
    for name, value in dataset.card["statistics"].items():
        table.add_row(name.replace("_", " "), _in_words(value))
    Console().print(table)


def _in_words(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name.replace('_', ' ')} {_in_words(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}"


if __name__ == "__main__":
    main()
