"""Learning curves of runs with intervals over seeds, as PNG.

python -m dynamite_jax.commands.plot --runs runs/A runs/B --out curves.png
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backend_bases import FigureCanvasBase

from dynamite_jax import config as configs
from dynamite_jax.analysis import statistics
from dynamite_jax.config import ConfigError
from dynamite_jax.errors import one_line_errors, parse, writing
from dynamite_jax.runtime import loggers, run_folder


@dataclass(frozen=True)
class Arguments:
    """Draw return against environment steps: interquartile mean over seeds, 95 % bootstrap interval, each seed thin."""

    runs: tuple[Path, ...]
    """Run folders; all of one environment."""
    out: Path = Path("learning_curve.png")
    """Picture to write; it is replaced if it is there."""
    title: str = ""
    """Title; by default the environment."""
    labels: tuple[str, ...] = ()
    """A name for each run; by default its method."""


def plot(runs: tuple[Path, ...], out: Path, title: str = "", labels: tuple[str, ...] = ()) -> None:
    """Write one picture of one or more runs.

    Raises:
        UserError: a folder is no run, holds no metrics, the environments differ, labels are not as many as runs, or
            `out` can't be written.
    """
    if labels and len(labels) != len(runs):
        raise ConfigError(f"labels are {len(labels)}; they must be as many as runs, {len(runs)}")
    formats = FigureCanvasBase.get_supported_filetypes()
    if out.suffix.lower().removeprefix(".") not in formats:
        raise ConfigError(f"out is {str(out)!r}; its name must end in .{', .'.join(formats)}")
    loaded = [_load(run) for run in runs]
    first = loaded[0][0]
    for run, (config, _) in zip(runs, loaded, strict=True):
        if (config.env, config.env_options) != (first.env, first.env_options):
            raise ConfigError(
                f"runs: {run} is of {config.env}, {runs[0]} of {first.env}; they must be of one environment"
            )
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    names = labels or [config.method for config, _ in loaded]
    colors = plt.rcParams["axes.prop_cycle"].by_key()["color"] * 9
    for color, name, (config, records) in zip(colors, names, loaded, strict=False):
        steps = np.array([record["env_steps"] for record in records]) / 1e6
        returns = np.array([record["return"] for record in records])  # [chunks, seeds]
        low, high = np.array([statistics.bootstrap_interval(row, resamples=2000) for row in returns]).T
        label = f"{name} ({config.seeds} seed{'s' * (config.seeds > 1)})"
        axes.plot(steps, [statistics.interquartile_mean(row) for row in returns], color=color, label=label)
        axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
        axes.plot(steps, returns, color=color, alpha=0.35, linewidth=0.6)
    for style, (name, value) in zip(("--", ":"), _references(runs, first).items(), strict=False):
        axes.axhline(value, color="black", linestyle=style, linewidth=1, label=name.replace("_", "-"))
    axes.set(xlabel="environment steps of a seed, millions", ylabel="return of an episode while training")
    axes.set_title(title or first.env)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    try:
        with writing(out):
            figure.savefig(out, dpi=130)
    finally:
        plt.close(figure)


def _load(run: Path) -> tuple[configs.Config, list[loggers.Record]]:
    if not (run / "config.json").is_file():
        raise ConfigError(f"runs: {str(run)!r} is no run folder; it must hold a config.json")
    records = loggers.read(run / "metrics.jsonl")
    if not records:
        raise ConfigError(f"runs: {str(run)!r} has no metrics yet; it must have finished a chunk")
    return configs.load(run / "config.json"), records


def _references(runs: tuple[Path, ...], config: configs.Config) -> dict[str, float]:
    """Known returns of the environment, from the summary of a finished run; solved anew where none is finished."""
    for run in runs:
        if (run / run_folder.SUMMARY).is_file():
            return run_folder.read_summary(run)["eval"]["references"]
    from dynamite_envs import exact

    env = configs.validate(dataclasses.replace(config, physics=configs.PhysicsConfig()))  # also of other machines' runs
    return exact.find(env).references()


@one_line_errors
def main() -> None:
    """Draw and say where."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m dynamite_jax.commands.plot")
    plot(arguments.runs, arguments.out, arguments.title, arguments.labels)
    print(arguments.out)


if __name__ == "__main__":
    main()
