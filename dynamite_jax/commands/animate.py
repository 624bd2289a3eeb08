"""The command that animates an episode of ScratchItch.

dynamite-jax animate --run runs/NAME --out scratch.gif
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dynamite_envs import pictures
from dynamite_jax.config import ConfigError
from dynamite_jax.errors import Plugins, one_line_errors, parse
from dynamite_jax.runtime import devices, run_folder


@dataclass(frozen=True)
class Arguments(Plugins):
    """Animate an episode of a trained run of scratch_itch, with the itch and the belief over both limbs."""

    run: Path
    """Run folder, as written by training."""
    out: Path = Path("scratch.gif")
    """Animation to write, a GIF; it is replaced if it is there."""
    seed: int = 0
    """Number of the agent among the seeds of the run."""
    episode: int = 0
    """Which fresh episode: a root of its contexts and start."""
    every: int = 3
    """Steps from one picture to the next."""


@one_line_errors
def main() -> None:
    """Play an episode, read off the belief, draw, and print the path."""
    arguments = parse(Arguments, sys.argv[1:])
    if arguments.out.suffix != ".gif":
        raise ConfigError(f"out is {str(arguments.out)!r}; its name must end in .gif")
    if arguments.every < 1:
        raise ConfigError(f"every is {arguments.every}; it must be 1 or more")
    pictures.without_display()
    devices.setup(run_folder.read_config(arguments.run).seeds)
    import jax

    from dynamite_envs.scratch_itch.env import ScratchItch
    from dynamite_jax.analysis import animation
    from dynamite_jax.analysis.evaluation import load_run

    program, params, _ = load_run(arguments.run, animation.EPISODES)
    env = program.env.unwrapped
    if not isinstance(env, ScratchItch):
        raise ConfigError(f"run is {str(arguments.run)!r}, of {program.config.env}; it must be of scratch_itch")
    if not 0 <= arguments.seed < program.config.seeds:
        raise ConfigError(f"seed is {arguments.seed}; it must be from 0 to {program.config.seeds - 1}")
    params = jax.tree.map(lambda x: x[arguments.seed], jax.device_get(params))
    record = jax.jit(partial(animation.record, program.env, program.agent))
    states, reward, probabilities = jax.device_get(record(params, jax.random.key(arguments.episode)))
    animation.animate(
        env, states=states, reward=reward, probabilities=probabilities, out=arguments.out, every=arguments.every
    )
    print(arguments.out)


if __name__ == "__main__":
    main()
