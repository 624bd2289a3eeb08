"""Pictures of runs; drawn without pyplot, which has global state."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from dynamite_jax import config as configs
from dynamite_jax.analysis import curves, statistics
from dynamite_jax.config import ConfigError
from dynamite_jax.errors import writing
from dynamite_jax.methods import METHODS
from dynamite_jax.runtime import loggers, run_folder


def draw_learning_curves(runs: tuple[Path, ...], out: Path, *, title: str = "", labels: tuple[str, ...] = ()) -> None:
    """Write one picture with the learning curves of one or more runs.

    Raises:
        UserError: a folder is no run or holds no metrics, the environments differ, the number of labels is not that of
            runs, or `out` can't be written.
    """
    run_folder.check_several(runs, labels)
    check_format(out)
    loaded = [load(run) for run in runs]
    of_runs = [config for config, _ in loaded]
    run_folder.check_one_env(runs, of_runs)
    names, first = run_folder.names(runs, of_runs, labels), of_runs[0]
    drawn = zip(names, (curves.of(records) for _, records in loaded), strict=True)
    _draw_curves(tuple(drawn), _references(runs, first), out, title or first.env)


def check_format(out: Path) -> None:
    """Refuse a file that is no picture.

    Raises:
        UserError: names the endings that are known.
    """
    formats = FigureCanvasBase.get_supported_filetypes()
    if out.suffix.lower().removeprefix(".") not in formats:
        raise ConfigError(f"out is {str(out)!r}; its name must end in .{', .'.join(formats)}")


def draw_table(table: dict[str, loggers.Record], out: Path, *, title: str) -> None:
    """Write one picture with the learning curves of the rows of a table, as far as they have any; none without."""
    references = next((row["references"] for row in table.values() if "references" in row), {})
    if named := tuple((name, row["curve"]) for name, row in table.items() if "curve" in row):
        _draw_curves(named, references, out, title)


def _draw_curves(
    named: tuple[tuple[str, curves.Curve], ...], references: dict[str, float], out: Path, title: str
) -> None:
    figure, axes = _figure()
    look = looks([name for name, _ in named])
    for name, curve in named:
        color, style = look[name]
        steps, returns = curve.steps / 1e6, curve.returns
        low, high = np.array([statistics.bootstrap_interval(row, resamples=2000) for row in returns]).T
        seeds = returns.shape[1]
        middle = [statistics.interquartile_mean(row) for row in returns]
        axes.plot(steps, middle, color=color, linestyle=style, label=f"{name} ({seeds} seed{'s' * (seeds > 1)})")
        axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
        axes.plot(steps, returns, color=color, alpha=0.35, linewidth=0.6)
    for name, value in references.items():
        style = ":" if name == "oracle" else "--"
        axes.axhline(value, color="black", linestyle=style, linewidth=1, label=name.replace("_", "-"))
    axes.set(xlabel="environment steps of a seed, millions", ylabel="return of an episode while training")
    axes.set_title(title)
    _legend(axes)
    with writing(out):
        figure.savefig(out, dpi=130)


def draw_sweep(
    rows: dict[str, loggers.Record], *, methods: tuple[str, ...], p: tuple[float, ...], env: str, out: Path
) -> None:
    """Write a picture of the score against p, or of the return where there is no score.

    Args:
        rows: records named `METHOD p=P`.
        methods: each is drawn as a line.
        p: probabilities, in the order of the axis.
        env: name of the environment, for the title.
        out: picture to write.
    """
    figure, axes = _figure()
    scored, look = all("score" in row for row in rows.values()), looks(methods)
    for method in methods:
        summaries = [rows[f"{method} p={value}"] for value in p]
        summaries = [row["score"] if scored else row for row in summaries]
        middle = [row["iqm"] for row in summaries]
        low, high = np.array([row["ci95"] for row in summaries]).T
        color, style = look[method]
        axes.plot(range(len(p)), middle, marker="o", color=color, linestyle=style, label=method)
        axes.vlines(range(len(p)), low, high, color=color, alpha=0.5)
    axes.set_xticks(range(len(p)), [str(value) for value in p])
    axes.set(xlabel="probability p of a switch in a step", ylabel="score" if scored else "return", title=env)
    _legend(axes)
    figure.savefig(out, dpi=130)


def _figure() -> tuple[Figure, Axes]:
    """An empty picture with axes on the left and at the bottom."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axes: Axes) -> None:
    """Beside the curves, which it would hide."""
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def looks(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and line of each name; a method has the same in all pictures."""
    colors, styles = rcParams["axes.prop_cycle"].by_key()["color"], ("-", "--", "-.", ":")
    looks = itertools.cycle((color, style) for style in styles for color in colors)
    return dict(zip(dict.fromkeys((*METHODS, *names)), looks, strict=False))


def load(run: Path) -> tuple[configs.Config, list[loggers.Record]]:
    """Config and metrics of a run, one record a chunk.

    Raises:
        UserError: a folder is no run or holds no metrics.
    """
    if not (run / "config.json").is_file():
        raise ConfigError(f"runs: {str(run)!r} is no run folder; it must hold a config.json")
    records = loggers.read(run / "metrics.jsonl")
    if not records:
        raise ConfigError(f"runs: {str(run)!r} has no metrics yet; it must have finished a chunk")
    return configs.load(run / "config.json"), records


def _references(runs: tuple[Path, ...], config: configs.Config) -> dict[str, float]:
    """Returns of reference agents, from the summary of a finished run; solved anew where none is finished."""
    for run in runs:
        if (run / run_folder.SUMMARY).is_file():
            return run_folder.read_summary(run)["eval"]["references"]
    from dynamite_envs import exact
    from dynamite_jax.analysis.references import references

    return references(exact.find(configs.environment(config)))
