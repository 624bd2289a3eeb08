"""The command that draws the belief of an agent.

dynamite-jax beliefs --run runs/NAME --out beliefs.png
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax.commands.arguments import EpisodeArguments
from dynamite_jax.errors import one_line_errors, parse
from dynamite_jax.runtime import devices, run_folder


@dataclass(frozen=True)
class Arguments(EpisodeArguments):
    """Draw what an agent believes: over an episode, by its principal components, and where it expects reward."""

    run: Path
    """Run folder, as written by training."""
    out: Path | None = None
    """Picture to write, replaced if it is there; by default beliefs.png in the run folder."""


@one_line_errors
def main() -> None:
    """Play an episode, read off the belief, draw, and print the path."""
    arguments = parse(Arguments, sys.argv[1:])
    from dynamite_jax.analysis import figures

    out = arguments.out or arguments.run / run_folder.BELIEFS
    figures.check_format(out)
    config = run_folder.read_config(arguments.run)
    arguments.check([arguments.run], [config], out)
    devices.setup(config.seeds)
    from dynamite_jax.analysis import belief_figure, viewing
    from dynamite_jax.methods import METHODS

    belief = METHODS[config.method].build(config, configs.environment(config))
    if not belief.features(belief.initial((1,))).size:
        raise UserError(f"run is {str(arguments.run)!r}, of {config.method}, which holds no belief")
    viewed = viewing.of_run(arguments.run, seed=arguments.seed, root=arguments.episode)
    belief_figure.draw(viewed, out, f"{config.method} in {config.env}")
    print(out)


if __name__ == "__main__":
    main()
