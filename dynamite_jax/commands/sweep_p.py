"""How methods fare from contexts that never change to contexts that change at every step.

python -m dynamite_jax.commands.sweep_p --env gridworld --seeds 5
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from dynamite_envs import exact, registry
from dynamite_jax import presets
from dynamite_jax.commands import runs
from dynamite_jax.commands.runs import REFERENCES
from dynamite_jax.config import Config
from dynamite_jax.errors import one_line_errors, parse
from dynamite_jax.runtime import loggers


@dataclass(frozen=True)
class Arguments:
    """Train methods at several probabilities p of a switch, everything else the same."""

    env: str = "gridworld"
    """Environment."""
    methods: tuple[str, ...] = ("dynamite", "varibad")
    """Methods."""
    p: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1, 0.3, 1.0)
    """Probabilities that the context changes after a step."""
    seeds: int = 5
    """Agents of each method and p, all from root seed 1."""
    steps: int | None = None
    """Environment steps of each seed, the same for all; by default the preset's."""
    runs: Path = Path("runs/sweep_p")
    """Where the run folders lie, under the name of the environment."""
    out: Path = Path("results")
    """Where sweep_p.md, sweep_p.json and sweep_p.png go, under the name of the environment."""
    allow_dirty: bool = False
    """Also write results of code that is not committed."""


def draw(found: dict[str, loggers.Record], methods: tuple[str, ...], p: tuple[float, ...], env: str, out: Path) -> None:
    """Score against p; return where there is no score.

    Args:
        found: rows named `METHOD p=P`.
        methods: one line each.
        p: probabilities, in the order of the axis.
        env: the title.
        out: picture to write.
    """
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    scored = all("score" in row for row in found.values())
    for method in methods:
        summaries = [found[f"{method} p={value}"] for value in p]
        summaries = [row["score"] if scored else row for row in summaries]
        middle = [row["iqm"] for row in summaries]
        low, high = np.array([row["ci95"] for row in summaries]).T
        (line,) = axes.plot(range(len(p)), middle, marker="o", label=method)
        axes.vlines(range(len(p)), low, high, color=line.get_color(), alpha=0.5)
    axes.set_xticks(range(len(p)), [str(value) for value in p])
    axes.set(xlabel="probability p of a switch in a step", ylabel="score" if scored else "return", title=env)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(out, dpi=130)
    plt.close(figure)


@one_line_errors
def main() -> None:
    """Train, write, print."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m dynamite_jax.commands.sweep_p")
    methods = arguments.methods
    if "bayes_optimal" not in exact.find(registry.make(arguments.env)).references():
        methods += tuple(name for name in REFERENCES if name not in methods)
    wanted: dict[float, dict[str, Config]] = {}
    for p in arguments.p:
        wanted[p] = {}
        for method in methods:
            config = presets.default(arguments.env, method)
            steps, options = arguments.steps or config.steps, {**config.env_options, "p": p}
            wanted[p][method] = dataclasses.replace(config, seeds=arguments.seeds, steps=steps, env_options=options)
    name = "{} p={}".format
    every = {name(method, p): config for p in wanted for method, config in wanted[p].items()}
    out = arguments.out / arguments.env
    runs.make_folder(out)
    summaries = runs.complete(every, arguments.runs / arguments.env, arguments.allow_dirty)
    found = {}
    for p in wanted:  # references are those of the same p
        here = runs.rows(wanted[p], {method: summaries[name(method, p)] for method in wanted[p]})
        found |= {name(method, p): row for method, row in here.items()}
    first = next(iter(every.values()))
    runs.write(found, first, out, name="sweep_p", header="method and p", allow_dirty=arguments.allow_dirty)
    draw(found, arguments.methods, arguments.p, arguments.env, out / "sweep_p.png")


if __name__ == "__main__":
    main()
