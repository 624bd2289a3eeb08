"""The results of `experiments.versus_torch.benchmark`, in Markdown and as a picture."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from dynamite_jax.runtime import loggers

PROGRAMS = {"ours": "dynamite_jax", "theirs": "PyTorch"}


def ratios(results: loggers.Record) -> dict[str, float]:
    """Our steps per second over PyTorch's, of the parts that were measured.

    Returns:
        `ratio_customary`, of the medians with 16 environments and customary updates; `ratio_at_best`, each program with
        the number of environments at which it is fastest.
    """
    values = {}
    if "customary" in results:
        ours, theirs = (results["customary"][name]["steps_per_s"]["median"] for name in PROGRAMS)
        values["ratio_customary"] = ours / theirs
    if "growth" in results:
        ours, theirs = (max(row[name] for row in results["growth"]) for name in PROGRAMS)
        if theirs:
            values["ratio_at_best"] = ours / theirs
    return values


def report(results: loggers.Record) -> list[str]:
    """The report, in Markdown."""
    machine, versions = (
        results["machine"],
        ", ".join(f"{name} {number}" for name, number in results["versions"].items()),
    )
    lines = [f"# {results['env']}: this project beside PyTorch", ""]
    lines += [f"{machine['cores']} cores of {machine['processor']}, {machine['device']}; {versions}.", ""]
    if "other" in results:
        rate, memory = (_cell(results["other"][key], 0) for key in ("steps_per_s", "peak_mb"))
        lines += [f"`{results['reference_command']}`: {rate} steps/s, {memory} MB.", ""]
    if "customary" in results:
        row = results["customary"]
        workers, threads = row["layout"]
        lines += [
            f"16 environments, updates of public VariBAD code; median (least - greatest). PyTorch: {workers} worker"
            f" processes, {threads} threads, the fastest of {len(row['layouts'])} layouts.",
            "",
            "| | steps/s | first report after, s | peak memory, MB |",
            "|---|---|---|---|",
        ]
        for name, title in PROGRAMS.items():
            cells = [
                _cell(row[name][key], digits) for key, digits in (("steps_per_s", 0), ("start_s", 1), ("peak_mb", 0))
            ]
            lines += [f"| {title} | {' | '.join(cells)} |"]
        lines += ["", f"Ratio of medians: {ratios(results)['ratio_customary']:.2f}.", ""]
    if "growth" in results:
        lines += [
            "| environments | dynamite_jax, steps/s | MB | PyTorch, steps/s | MB | ratio |",
            "|---|---|---|---|---|---|",
        ]
        for row in results["growth"]:
            ratio = f"{row['ours'] / row['theirs']:.1f}" if row["theirs"] else "-"
            cells = [f"{row[name]:,.0f}" if row[name] else "-" for name in ("ours", "ours_mb", "theirs", "theirs_mb")]
            lines += [f"| {row['num_envs']:,} | {' | '.join(cells)} | {ratio} |"]
        ours, theirs = (max(row[name] for row in results["growth"]) for name in PROGRAMS)
        lines += [""]
        if theirs:
            times = ratios(results)["ratio_at_best"]
            lines += [f"Each at its best: {ours:,.0f} and {theirs:,.0f} steps/s, {times:.2f} times.", ""]
    if "seeds" in results:
        first = results["seeds"][0]["seeds"]
        lines += [f"| seeds at once | dynamite_jax, steps/s of all | times the time of {first} |", "|---|---|---|"]
        lines += [f"| {row['seeds']} | {row['ours']:,.0f} | {row['times_one']:.2f} |" for row in results["seeds"]]
        lines += [""]
    if "to_return" in results:
        part = results["to_return"]
        reached = f"a return of {part['target']:.2f} over {part['episodes']} episodes"
        lines += [f"Seconds from the start of the program to {reached}, by run:", ""]
        for name, title in PROGRAMS.items():
            lines += [f"- {title}: {', '.join(_reached(run) for run in part[name])}"]
        lines += [""]
    return lines


def _cell(values: loggers.Record, digits: int) -> str:
    return f"{values['median']:,.{digits}f} ({values['least']:,.{digits}f} - {values['greatest']:,.{digits}f})"


def _reached(run: loggers.Record) -> str:
    if run["seconds"] is not None:
        return f"{run['seconds']:.1f}"
    return (
        f"not within {run['watched_s']:.0f} (best {max((point['return'] for point in run['curve']), default=0.0):.1f})"
    )


def draw(results: loggers.Record, out: Path) -> None:
    """Steps per second by environments, time by seeds, return by seconds: a panel for each part of the results."""
    panels = {"growth": _draw_growth, "seeds": _draw_seeds, "to_return": _draw_returns}
    parts = [part for part in panels if part in results]
    if not parts:
        return
    figure, grid = plt.subplots(1, len(parts), figsize=(4 * len(parts), 3.8), layout="constrained", squeeze=False)
    for axes, part in zip(grid[0], parts, strict=True):
        panels[part](axes, results[part])
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.suptitle(results["env"])
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _draw_growth(axes: Any, rows: list[loggers.Record]) -> None:
    for name, title in PROGRAMS.items():
        points = [(row["num_envs"], row[name]) for row in rows if row[name]]
        axes.plot(*zip(*points, strict=True), marker="o", label=title)
    axes.set(yscale="log", xlabel="environments", ylabel="environment steps/s, training")
    axes.set_xscale("log", base=2)


def _draw_seeds(axes: Any, rows: list[loggers.Record]) -> None:
    seeds = [row["seeds"] for row in rows]
    axes.plot(seeds, [row["times_one"] for row in rows], marker="o", label=PROGRAMS["ours"])
    axes.plot(
        seeds, [n / seeds[0] for n in seeds], color="black", linewidth=1, linestyle=":", label="one after the other"
    )
    axes.set(xlabel="seeds at once", ylabel="times the time of one seed")


def _draw_returns(axes: Any, part: loggers.Record) -> None:
    for color, (name, title) in zip(("C0", "C1"), PROGRAMS.items(), strict=True):
        for number, run in enumerate(part[name]):
            points = [(point["seconds"], point["return"]) for point in run["curve"]]
            axes.plot(*zip(*points, strict=True), color=color, label=None if number else title)
    axes.axhline(part["target"], color="black", linewidth=1, linestyle="--")
    axes.set(xscale="log", xlabel="seconds from the start of the program", ylabel="return")
