"""The command that writes a trained policy as files.

dynamite-jax export --run runs/NAME --out policy
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from dynamite_jax.errors import Plugins, one_line_errors, parse
from dynamite_jax.runtime import devices, run_folder


@dataclass(frozen=True)
class Arguments(Plugins):
    """Write the trained agent of one seed: its config, its weights, and itself as StableHLO, which JAX alone runs."""

    run: Path
    """Run folder, as written by training."""
    out: Path = Path("policy")
    """Folder to write, new or empty."""
    seed: int = 0
    """Number of the agent among the seeds of the run."""


@one_line_errors
def main() -> None:
    """Load, write, print the path."""
    arguments = parse(Arguments, sys.argv[1:])
    devices.setup(run_folder.read_config(arguments.run).seeds)
    from dynamite_jax import api

    api.load_run(arguments.run).policy(arguments.seed).save(arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
