"""The command that draws learning curves of runs, with intervals over seeds.

dynamite-jax plot --runs runs/A runs/B --out curves.png
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from dynamite_jax.commands.arguments import RunsArguments
from dynamite_jax.errors import one_line_errors, parse


@dataclass(frozen=True)
class Arguments(RunsArguments):
    """Draw return against environment steps: interquartile mean over seeds, 95 % bootstrap interval, each seed thin."""

    out: Path = Path("learning_curve.png")
    """Picture to write; it is replaced if it is there."""
    title: str = ""
    """Title; by default the environment."""


@one_line_errors
def main() -> None:
    """Draw, and print the path."""
    arguments = parse(Arguments, sys.argv[1:])
    from dynamite_jax.analysis.figures import draw_learning_curves

    draw_learning_curves(arguments.runs, arguments.out, title=arguments.title, labels=arguments.labels)
    print(arguments.out)


if __name__ == "__main__":
    main()
