"""Wall-clock against PyTorch: this project's trainer and `torch_reference`, in turn, on one machine.

python -m experiments.versus_torch.benchmark --env gridworld
"""

import dataclasses
import json
import shlex
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich.console import Console

from dynamite_envs import exact, registry
from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.analysis.evaluation import evaluate
from dynamite_jax.commands import runs
from dynamite_jax.config import Config, ConfigError
from dynamite_jax.data.types import AgentParams
from dynamite_jax.errors import one_line_errors, parse
from dynamite_jax.runtime import devices, loggers
from dynamite_jax.runtime.program import Program
from dynamite_jax.runtime.provenance import commit
from experiments.versus_torch import jax_program
from experiments.versus_torch.report import draw, ratios, report
from experiments.versus_torch.watched import Line, Watched, watch

# Updates as in public VariBAD code (github.com/lmzintgraf/varibad), with the networks of our presets; docs/speed.md
# says in what they differ.
_CUSTOMARY = {
    "num_envs": 16,
    "vae.buffer_episodes": 1000,
    "vae.minibatches": 1,
    "ppo.epochs": 2,
    "ppo.minibatches": 4,
}
CUSTOMARY = {
    "gridworld": {**_CUSTOMARY, "vae.trajectories": 25, "vae.epochs": 3},
    "halfcheetah_vel": {**_CUSTOMARY, "vae.trajectories": 10, "vae.epochs": 1},
}
# Ways to run the PyTorch program, of which the fastest counts: processes that step environments, threads.
LAYOUTS = tuple((workers, threads) for workers in (0, devices.cores(), 16) for threads in (1, devices.cores()))
ENDLESS = 10**9  # environment steps of runs that are only timed
PASSED_STEPS = 100_000  # environment steps over which returns are averaged to tell that a target is passed
EVALUATED = 512  # episodes behind each point of a curve of returns over time


Part = Literal["customary", "growth", "seeds", "to_return"]


@dataclass(frozen=True)
class Arguments:
    """Time complete training in both programs, each in a process of its own."""

    env: Literal["gridworld", "halfcheetah_vel"] = "gridworld"
    """Environment."""
    repeats: int = 3
    """Runs of each program, in turn, at each size and to the return; medians are reported."""
    seconds: float = 15.0
    """Seconds for which a program is timed once it has made its first update."""
    limit: float = 600.0
    """Seconds after which a run that has not reached the return is given up."""
    parts: tuple[Part, ...] = ("customary", "growth", "seeds", "to_return")
    """What to measure; the parts of an earlier report that are left out stay in it where machine, versions, commit
    and preset agree."""
    sizes: tuple[int, ...] = (16, 64, 256, 1024, 4096, 16384)
    """Numbers of environments."""
    seeds: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Numbers of agents trained at once."""
    target: float | None = None
    """Return to reach, by deterministic policies; by default 90 % of Bayes-optimal, or -120 in halfcheetah_vel."""
    reference_command: str = ""
    """Another trainer to time instead of the PyTorch program: a command that prints JSON lines with its environment
    `steps` so far; it is timed at the size it has, and its memory is measured."""
    out: Path = Path("results/benchmark")
    """Where ENV.json, ENV.md and ENV.png go."""
    allow_dirty: bool = False
    """Also write results of code that is not committed."""


def sized(preset: Config, num_envs: int) -> Config:
    """A preset with another number of environments, and no more minibatches than those allow; it never ends."""
    trajectories = min(preset.vae.trajectories or num_envs, num_envs)
    changes = {
        "steps": ENDLESS,
        "num_envs": num_envs,
        "chunk": max(1, preset.chunk * preset.num_envs // num_envs),
        "vae.trajectories": trajectories,
        "vae.minibatches": min(preset.vae.minibatches, trajectories),
    }
    if preset.ppo.shuffle == "episodes":
        changes["ppo.minibatches"] = min(preset.ppo.minibatches, num_envs)
    return configs.changed(preset, changes)


class Runner:
    """Runs both programs, one after the other, each in a process of its own."""

    def __init__(self, arguments: Arguments, folder: Path):
        self.arguments, self.folder = arguments, folder
        self.console = Console(stderr=True)

    def ours(self, config: Config, enough: Callable | None = None, snapshots: Path | None = None) -> Watched:
        """Measure this project's program, with an empty compilation cache."""
        command = [sys.executable, "-m", "experiments.versus_torch.jax_program", "--config", self._write(config)]
        with tempfile.TemporaryDirectory(dir=self.folder) as cache:
            environment = {"JAX_COMPILATION_CACHE_DIR": cache, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
            return self._watch(command + (["--snapshots", str(snapshots)] if snapshots else []), enough, environment)

    def theirs(
        self, config: Config, layout: tuple[int, int], enough: Callable | None = None, snapshots: Path | None = None
    ) -> Watched:
        """Measure the PyTorch program."""
        workers, threads = layout
        command = [sys.executable, "-m", "experiments.versus_torch.torch_reference", "--config", self._write(config)]
        command += ["--workers", str(workers), "--threads", str(threads), "--seed", str(config.seed)]
        if snapshots:
            command += ["--snapshots", str(snapshots), "--every", str(config.chunk)]
        return self._watch(command, enough)

    def other(self) -> Watched:
        """Measure the trainer of `reference_command`."""
        return self._watch(shlex.split(self.arguments.reference_command), None)

    def fastest(self, config: Config) -> loggers.Record:
        """Measure the PyTorch program at a size in every layout.

        Returns:
            `layout`, the fastest; `layouts`, the steps per second of each, 0 if it is too slow; of the fastest
            `theirs`, its steps per second, and `theirs_mb`.
        """
        rates, memory = {}, {}
        for workers, threads in LAYOUTS:
            if workers and config.num_envs % workers:
                continue
            measurement = self._unless_too_slow(partial(self.theirs, config, (workers, threads), self.for_seconds(5.0)))
            rates[workers, threads] = measurement.rate if measurement else 0.0
            memory[workers, threads] = measurement.peak_mb if measurement else 0.0
        best = max(rates, key=lambda layout: rates[layout])
        layouts = {f"{workers} workers, {threads} threads": rate for (workers, threads), rate in rates.items()}
        return {"layout": best, "layouts": layouts, "theirs": rates[best], "theirs_mb": memory[best]}

    def _unless_too_slow(self, run: Callable[[], Watched]) -> Watched | None:
        """The measurement; None, with a message, where a program prints too little within the limit."""
        try:
            return run()
        except UserError as error:
            self.print_progress(str(error))
            return None

    def for_seconds(self, seconds: float | None = None) -> Callable[[list[Line]], bool]:
        """A rule that stops a program so many seconds after its first line."""
        seconds = self.arguments.seconds if seconds is None else seconds

        def enough(lines: list[Line]) -> bool:
            return len(lines) > 1 and lines[-1]["seconds"] - lines[0]["seconds"] > seconds

        return enough

    def print_progress(self, text: str) -> None:
        """Print progress on the terminal."""
        self.console.print(text, markup=False, highlight=False)

    def _watch(self, command: list[str], enough: Callable | None, environment: dict[str, str] | None = None) -> Watched:
        enough = enough or self.for_seconds()
        return watch(command, limit_s=self.arguments.limit, enough=enough, environment=environment)

    def _write(self, config: Config) -> str:
        configs.validate(config)
        path = self.folder / "config.json"
        configs.save(config, path)
        return str(path)


def spread(values: list[float]) -> loggers.Record:
    """Median, least and greatest of a few repeats."""
    return {"median": float(np.median(values)), "least": min(values), "greatest": max(values), "all": values}


def timed(repeats: list[Watched]) -> loggers.Record:
    """Speed, start and memory over the repeats of one program."""
    return {
        "steps_per_s": spread([run.rate for run in repeats]),
        "start_s": spread([run.start_s for run in repeats]),
        "peak_mb": spread([run.peak_mb for run in repeats]),
    }


def in_turn(runner: Runner, config: Config, layout: tuple[int, int] | None) -> tuple[list[Watched], list[Watched]]:
    """Repeats of ours and of the PyTorch program, one after the other; without a layout, of ours alone."""
    ours, theirs = [], []
    for _ in range(runner.arguments.repeats):
        if layout:
            theirs.append(runner.theirs(config, layout))
        ours.append(runner.ours(config))
    return ours, theirs


def customary(runner: Runner, preset: Config) -> loggers.Record:
    """Both programs with 16 environments and the updates of public VariBAD code, in turn."""
    config = configs.changed(preset, {**CUSTOMARY[preset.env], "seeds": 1, "steps": ENDLESS})
    best = runner.fastest(config)
    ours, theirs = in_turn(runner, config, best["layout"])
    kept = {name: best[name] for name in ("layout", "layouts")}
    return {"num_envs": 16, **kept, "ours": timed(ours), "theirs": timed(theirs)}


def growth(runner: Runner, preset: Config) -> list[loggers.Record]:
    """Both programs at each number of environments, by the preset: medians, and all repeats."""
    rows = []
    for num_envs in runner.arguments.sizes:
        config = sized(dataclasses.replace(preset, seeds=1), num_envs)
        best = runner.fastest(config)
        ours, theirs = in_turn(runner, config, best["layout"] if best["theirs"] else None)
        row = {"num_envs": num_envs, **best}
        for name, repeats in (("ours", ours), ("theirs", theirs)):
            if repeats:
                rates = [run.rate for run in repeats]
                row |= {name: float(np.median(rates)), f"{name}_all": rates}
                row[f"{name}_mb"] = float(np.median([run.peak_mb for run in repeats]))
        rows.append(row)
        runner.print_progress(f"{num_envs} environments: ours {row['ours']:,.0f}, PyTorch {row['theirs']:,.0f} steps/s")
    return rows


def with_seeds(runner: Runner, preset: Config) -> list[loggers.Record]:
    """Steps per second of all agents together, and how much longer they take than one does."""
    rows = []
    for seeds in runner.arguments.seeds:
        ours = runner.ours(dataclasses.replace(preset, seeds=seeds, steps=ENDLESS))
        row = {"seeds": seeds, "ours": ours.rate, "ours_mb": ours.peak_mb}
        one = rows[0] if rows else row
        rows.append(row | {"times_one": seeds / one["seeds"] * one["ours"] / ours.rate})
        runner.print_progress(
            f"{seeds} seeds: {ours.rate:,.0f} steps/s, {rows[-1]['times_one']:.2f} times the time of one"
        )
    return rows


def to_return(runner: Runner, preset: Config, target: float) -> loggers.Record:
    """Seconds from the start of a program until its policy reaches the target, with the same evaluation for both.

    Weights are saved during training and evaluated afterwards, all those of a run at once.
    """
    config = dataclasses.replace(preset, seeds=1)
    layout = runner.fastest(config)["layout"]
    env = configs.validate(config)
    program = Program(config, env)
    like = jax.tree.map(lambda x: x[0], jax.device_get(program.init().agent_params))

    def first_reached(run: Watched) -> loggers.Record:
        snapshots = [line for line in run.lines if "snapshot" in line]
        if not snapshots:
            return {"seconds": None, "watched_s": run.lines[-1]["seconds"], "curve": []}
        agents = [_agent_params(line["snapshot"], like) for line in snapshots]
        params = jax.tree.map(lambda *leaves: np.stack(leaves), *agents)  # evaluated as if they were seeds of one run
        returns = evaluate(program, params, episodes=EVALUATED, seed=config.seed)["return"]["per_seed"]
        curve = [
            {"seconds": line["seconds"], "steps": line["steps"], "return": value}
            for line, value in zip(snapshots, returns, strict=True)
        ]
        reached = next((point["seconds"] for point in curve if point["return"] >= target), None)
        return {"seconds": reached, "watched_s": run.lines[-1]["seconds"], "curve": curve}

    def passed(lines: list[Line]) -> bool:
        """Whether policies that still explore reach the target, and weights have just been saved."""
        last = [line["return"] for line in lines if lines[-1]["steps"] - line["steps"] < PASSED_STEPS]
        return len(lines) > 1 and "snapshot" in lines[-1] and float(np.mean(last)) >= target

    results: dict[str, list] = {"ours": [], "theirs": []}
    for repeat in range(runner.arguments.repeats):
        repeated = dataclasses.replace(config, seed=config.seed + repeat)
        for name in results:
            with tempfile.TemporaryDirectory(dir=runner.folder) as folder:
                if name == "ours":
                    run = runner.ours(repeated, enough=passed, snapshots=Path(folder))
                else:
                    run = runner.theirs(repeated, layout, enough=passed, snapshots=Path(folder))
                results[name].append(first_reached(run))
            runner.print_progress(
                f"{name}, repeat {repeat + 1}: return {target:.1f} after {results[name][-1]['seconds']} s"
            )
    return {"target": target, "episodes": EVALUATED, "limit_s": runner.arguments.limit, **results}


def _agent_params(path: str, like: AgentParams) -> AgentParams:
    """Parameters and statistics of an agent that a program saved."""
    with np.load(path) as arrays:
        return jax.tree.map(np.asarray, jax_program.agent_params(dict(arrays), like))


def check(arguments: Arguments) -> None:
    """Refuse arguments that can't be measured.

    Raises:
        UserError: names the argument, its value and what is allowed.
    """
    for name in ("repeats", "seconds", "limit"):
        if getattr(arguments, name) <= 0:
            raise UserError(f"{name} is {getattr(arguments, name)}; it must be more than 0")
    for name in ("sizes", "seeds"):
        if not getattr(arguments, name) or min(getattr(arguments, name)) < 1:
            raise UserError(f"{name} is {getattr(arguments, name)}; it must be numbers of 1 or more")
    if arguments.reference_command and not arguments.reference_command.strip():
        raise UserError(f"reference_command is {arguments.reference_command!r}; it must name a program")
    preset = presets.default(arguments.env, "dynamite")
    for size in arguments.sizes:
        try:
            configs.validate(sized(preset, size))
        except ConfigError as error:
            raise UserError(f"sizes holds {size}, with which {error}") from None
    runs.refuse_dirty({"the code here": commit()}, arguments.allow_dirty)
    if not find_spec("torch"):
        raise UserError("PyTorch is not installed; `make setup EXTRAS=torch` does that")


@one_line_errors
def main() -> None:
    """Measure part after part; each is written at once, so that an interrupted run leaves the completed ones."""
    arguments = parse(Arguments, sys.argv[1:])
    check(arguments)
    runs.make_folder(arguments.out)
    preset = presets.default(arguments.env, "dynamite")
    results = _earlier(arguments, preset.env)

    def write() -> None:
        results.update(ratios(results))
        (arguments.out / f"{arguments.env}.json").write_text(json.dumps(results, indent=2) + "\n")
        (arguments.out / f"{arguments.env}.md").write_text("\n".join(report(results)))

    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(arguments, Path(folder))
        if arguments.reference_command:
            results["reference_command"] = arguments.reference_command
            results["other"] = timed([runner.other() for _ in range(arguments.repeats)])
            write()
        target = _target(arguments.env) if arguments.target is None else arguments.target
        measures: dict[str, Callable[[], Any]] = {
            "customary": partial(customary, runner, preset),
            "growth": partial(growth, runner, preset),
            "seeds": partial(with_seeds, runner, preset),
            "to_return": partial(to_return, runner, preset, target),
        }
        for part in arguments.parts:
            results[part] = measures[part]()
            write()
    draw(results, arguments.out / f"{arguments.env}.png")
    print("\n".join(report(results)))


def _target(env: str) -> float:
    """90 % of the Bayes-optimal return where that is known, else the return of a half-cheetah at its target speed."""
    best = exact.find(registry.make(env)).references().get("bayes_optimal")
    return 0.9 * best if best else -120.0


def _earlier(arguments: Arguments, env: str) -> loggers.Record:
    """The earlier results of this machine, commit, preset and versions; without them only these fields."""
    fresh: loggers.Record = {"env": env, "machine": devices.machine(), "commit": commit()}
    fresh["config"] = json.loads(json.dumps(configs.to_dict(presets.default(env, "dynamite"))))
    fresh["versions"] = {name: version(name) for name in ("jax", "torch", "mujoco", "gymnasium", "numpy")}
    path = arguments.out / f"{env}.json"
    if not path.is_file():
        return fresh
    try:
        earlier = json.loads(path.read_text())
    except ValueError:
        raise UserError(f"out is {str(arguments.out)!r}; {path.name} there is no report") from None
    return earlier if all(earlier.get(key) == value for key, value in fresh.items()) else fresh


if __name__ == "__main__":
    main()
