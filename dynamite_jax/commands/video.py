"""The command that shows an episode of one or more runs.

dynamite-jax video --runs runs/A runs/B --out video.gif
"""

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dynamite_envs import pictures
from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax.commands.arguments import EpisodeArguments, RunsArguments
from dynamite_jax.config import ConfigError
from dynamite_jax.errors import one_line_errors, parse
from dynamite_jax.runtime import devices, run_folder

SUFFIXES = (".gif", ".mp4")


@dataclass(frozen=True)
class Arguments(RunsArguments, EpisodeArguments):
    """Show an episode of trained agents, side by side on the same contexts, and what each believes of them."""

    out: Path | None = None
    """A GIF of at most 1 MB, or an MP4 (with the extra `video`), replaced if it is there; by default video.gif, where
    one run is shown in its folder."""
    every: int | None = None
    """Steps from one picture to the next; by default what makes ten pictures a second at most."""


@one_line_errors
def main() -> None:
    """Play an episode with each agent, read off the beliefs, draw, and print the path."""
    arguments = parse(Arguments, sys.argv[1:])
    runs = arguments.runs
    run_folder.check_several(runs, arguments.labels)
    if arguments.every is not None and arguments.every < 1:
        raise ConfigError(f"every is {arguments.every}; it must be 1 or more")
    out = arguments.out or (runs[0] if len(runs) == 1 else Path()) / run_folder.VIDEO
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"out is {str(out)!r}; its name must end in {' or '.join(SUFFIXES)}")
    if out.suffix == ".mp4" and find_spec("av") is None:
        raise UserError(f"out is {str(out)!r}; the package av is missing, which the extra video installs")
    of_runs = [run_folder.read_config(run) for run in runs]
    run_folder.check_one_env(runs, of_runs)
    names = run_folder.names(runs, of_runs, arguments.labels)
    arguments.check(runs, of_runs, out)
    pictures.without_display()
    devices.setup(max(config.seeds for config in of_runs))
    pictures.check(configs.environment(of_runs[0]))
    from rich.console import Console
    from rich.progress import track

    from dynamite_jax.analysis import video, viewing

    console = Console(stderr=True)
    viewed = [
        viewing.of_run(run, seed=arguments.seed, root=arguments.episode)
        for run in track(runs, "playing episodes", console=console, transient=True)
    ]
    env, shown = viewed[0].env, [video.Shown(name, each.episode) for name, each in zip(names, viewed, strict=True)]
    length = max(each.episode.length for each in viewed)
    every, rate = video.pace(length, pictures.frame_rate(env), arguments.every)
    drawn = video.frames(env, shown, every)
    total = len(video.steps(length, every))
    video.write(track(drawn, "drawing", total=total, console=console, transient=True), rate, out)
    print(out)


if __name__ == "__main__":
    main()
