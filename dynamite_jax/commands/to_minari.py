"""The command that writes recorded episodes as a set of Minari's.

dynamite-jax to-minari --data data/gridworld_mixed --name gridworld/mixed-v0
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from dynamite_jax.errors import Plugins, one_line_errors, parse


@dataclass(frozen=True)
class Arguments(Plugins):
    """Write recorded episodes among Minari's sets on this machine, where `minari list local` shows them."""

    data: Path
    """Folder of the recorded episodes, as `collect` writes it."""
    name: str
    """Minari's name of the set, new, as in gridworld/mixed-v0."""


@one_line_errors
def main() -> None:
    """Read, write, print the path."""
    arguments = parse(Arguments, sys.argv[1:])
    from dynamite_envs import registry
    from dynamite_jax.commands.collect import progress
    from dynamite_jax.datasets import minari_sets
    from dynamite_jax.datasets.dataset import Dataset, read_card
    from dynamite_jax.runtime import devices

    minari_sets.library()
    card = read_card(arguments.data)
    devices.setup(1)
    dataset = Dataset.open(arguments.data, registry.make(card["env"], **card["env_options"]))
    with progress("writing") as say:
        folder = minari_sets.write(dataset, arguments.name, say)
    print(folder)


if __name__ == "__main__":
    main()
