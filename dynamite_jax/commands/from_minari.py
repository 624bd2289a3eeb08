"""The command that reads episodes from a set of Minari's.

dynamite-jax from-minari --name gridworld/mixed-v0 --out data/gridworld_mixed
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from dynamite_envs.errors import UserError
from dynamite_jax.errors import Plugins, one_line_errors, parse


@dataclass(frozen=True)
class Arguments(Plugins):
    """Read a set of Minari's on this machine to learn from; the same command goes on with one that was cut off."""

    name: str
    """Minari's name of the set, as `minari list local` shows it. Nothing is downloaded."""
    out: Path
    """Folder to write, new or that of the same set."""
    env: str | None = None
    """Environment; by default that with which the set was recorded."""
    env_options: tuple[str, ...] = ()
    """Its options, as name=value with JSON values, where `env` is named."""
    shard: int = 64
    """Episodes of a shard."""


@one_line_errors
def main() -> None:
    """Read, write, print the statistics and the path."""
    arguments = parse(Arguments, sys.argv[1:])
    if arguments.shard < 1:
        raise UserError(f"shard is {arguments.shard}; it must be 1 or more")
    if arguments.env_options and arguments.env is None:
        raise UserError(f"env_options is {' '.join(arguments.env_options)!r}; without env it must be empty")
    from dynamite_envs import registry
    from dynamite_jax import config as configs
    from dynamite_jax.commands.collect import progress, show
    from dynamite_jax.datasets import minari_sets
    from dynamite_jax.runtime import devices

    source = minari_sets.MinariSet(arguments.name)
    if arguments.env is not None:
        name, options = arguments.env, configs.parse_options(arguments.env_options)
    elif source.env is not None:
        name, options = source.env
    else:
        raise UserError(f"env is missing: {arguments.name} does not say which environment of ours it is of")
    devices.setup(1)
    env = registry.make(name, **options)
    plan = {"env": name, "env_options": options, "shard": arguments.shard}
    with progress("reading") as say:
        dataset = source.collect(env, plan, arguments.out, say)
    show(dataset, f"{name}: {arguments.name}")
    print(arguments.out)


if __name__ == "__main__":
    main()
