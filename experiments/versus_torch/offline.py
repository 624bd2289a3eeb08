"""Optimiser steps a second on recorded episodes: this project's learners and the same in PyTorch, in turn.

python -m experiments.versus_torch.offline
"""

import dataclasses
import json
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from dynamite_envs import registry
from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.algorithms.learners import LEARNERS, Transitions, Weights
from dynamite_jax.commands import runs
from dynamite_jax.config import Config
from dynamite_jax.datasets import collection
from dynamite_jax.errors import one_line_errors, parse, writing
from dynamite_jax.runtime import devices, loggers
from dynamite_jax.runtime.program import Program
from dynamite_jax.runtime.provenance import commit
from dynamite_jax.runtime.speed import matrix_flops, matrix_rate
from experiments.versus_torch.benchmark import ENDLESS, spread
from experiments.versus_torch.watched import Line, Watched, watch

BATCH = 256
EPISODES = 512
# Ours, and the sizes of public single-file implementations (github.com/tinkoff-ai/CORL) for half-cheetahs.
CASES: dict[str, dict[str, Any]] = {
    "gridworld iql": {},
    "halfcheetah_vel iql": {
        "network.policy_hidden": (256, 256),
        "network.value_hidden": (256, 256),
        "network.activation": "relu",
    },
}
CASES["halfcheetah_vel td3bc"] = CASES["halfcheetah_vel iql"] | {"offline.learner": "td3bc"}


@dataclass(frozen=True)
class Arguments:
    """Time offline learners on random episodes without a belief, in both programs, each in a process of its own."""

    cases: tuple[str, ...] = tuple(CASES)
    """Environment and learner."""
    repeats: int = 3
    """Runs of each program, in turn; medians are reported."""
    seconds: float = 10.0
    """Seconds for which a program is timed after its first line."""
    out: Path = Path("results/benchmark/learners")
    """Where speed.json goes; cases of an earlier one that are left out stay in it where machine, versions and commit
    agree."""
    allow_dirty: bool = False
    """Also write results of code that is not committed."""


def config_of(case: str, data: Path) -> Config:
    """One agent that learns from observations, and plays next to nothing."""
    env, _ = case.split()
    preset = presets.default(env, "markov", setting="offline")
    minibatches = preset.num_envs * registry.make(env).horizon // BATCH
    own = {"seeds": 1, "steps": ENDLESS, "chunk": max(1, 300 // minibatches), "offline.data": str(data)}
    own |= {"offline.minibatches": minibatches, "offline.epochs": 1, "offline.watched_episodes": 1}
    return configs.changed(preset, own | CASES[case])


def measure(case: str, arguments: Arguments, folder: Path) -> loggers.Record:
    """Both programs in turn.

    Returns:
        `ours`, `theirs` and `ours_4_seeds`, optimiser steps a second, of four seeds those of all together; `threads`,
        those of PyTorch with which it is fastest, and `layouts`, its steps a second with each number; `floor`, steps a
        second at the rate of one large matrix product; `config`.
    """
    data = folder / case.split()[0]
    config = config_of(case, data)
    env = configs.validate(config)
    request = collection.Request(config, ("random",), EPISODES, EPISODES // 8, seed=1)
    collection.collect(request, env, data, lambda done, shards: None)
    path = folder / "config.json"

    def enough(lines: list[Line], seconds: float) -> bool:
        return len(lines) > 1 and lines[-1]["seconds"] - lines[0]["seconds"] > seconds

    def run(program: str, *words: str, seeds: int = 1, seconds: float = arguments.seconds) -> Watched:
        configs.save(dataclasses.replace(config, seeds=seeds), path)
        command = [sys.executable, "-m", f"experiments.versus_torch.{program}", "--config", str(path), *words]
        return watch(command, limit_s=120.0 + 2 * seconds, enough=partial(enough, seconds=seconds))

    def theirs(threads: int, seconds: float = arguments.seconds) -> float:
        words = ("--threads", str(threads), "--batch", str(BATCH))
        return run("torch_reference.offline", *words, seconds=seconds).rate

    layouts = {threads: theirs(threads, seconds=3.0) for threads in (1, devices.cores())}
    threads = max(layouts, key=lambda number: layouts[number])
    rates: dict[str, list[float]] = {"ours": [], "theirs": [], "ours_4_seeds": []}
    for _ in range(arguments.repeats):
        rates["theirs"].append(theirs(threads))
        rates["ours"].append(run("jax_program").rate / BATCH)
        rates["ours_4_seeds"].append(run("jax_program", seeds=4).rate / BATCH)
    return {
        **{name: spread(values) for name, values in rates.items()},
        "threads": threads,
        "layouts": layouts,
        "floor": matrix_rate() / flops(config),
        "config": configs.to_dict(configs.changed(config, {"offline.data": data.name})),
    }


def flops(config: Config) -> float:
    """Floating-point operations of the matrix products of an optimiser step."""
    program = Program(config, configs.validate(config))
    algorithm: Any = program.algorithm
    state = jax.eval_shape(partial(algorithm.init, program.env), jnp.zeros((), jnp.int32))
    features = jnp.zeros((BATCH, state.normaliser.mean.features.value.shape[-1]))
    batch = Transitions(
        features=features,
        following=features,
        action=program.agent.space.zeros((BATCH,)),
        reward=jnp.zeros(BATCH),
        terminated=jnp.zeros(BATCH, bool),
        weight=jnp.ones(BATCH),
    )

    def gradient(weights: Weights, slow: Any) -> Any:
        loss = LEARNERS[config.offline.learner]
        parts = (batch, jax.random.key(0), config.offline)
        return jax.grad(lambda weights: loss(algorithm.networks, weights, slow, *parts), has_aux=True)(weights)[0]

    weights: Any = Weights(state.policy_params, state.critic_params)
    closed = jax.make_jaxpr(gradient)(weights, state.slow_critics)
    needed, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return matrix_flops(needed)


@one_line_errors
def main() -> None:
    """Measure case after case; each is written at once."""
    arguments = parse(Arguments, sys.argv[1:])
    for case in arguments.cases:
        if case not in CASES:
            raise UserError(f"cases holds {case!r}; allowed: {', '.join(CASES)}")
    for name in ("repeats", "seconds"):
        if getattr(arguments, name) <= 0:
            raise UserError(f"{name} is {getattr(arguments, name)}; it must be more than 0")
    runs.refuse_dirty({"the code here": commit()}, arguments.allow_dirty)
    if not find_spec("torch"):
        raise UserError("PyTorch is not installed; `make setup EXTRAS=torch` does that")
    runs.make_folder(arguments.out)
    path = arguments.out / "speed.json"
    results = _earlier(path)
    with tempfile.TemporaryDirectory() as folder:
        for case in arguments.cases:
            results["cases"][case] = row = measure(case, arguments, Path(folder))
            with writing(path):
                path.write_text(json.dumps(results, indent=2) + "\n")
            ours, theirs = row["ours"]["median"], row["theirs"]["median"]
            print(f"{case}: ours {ours:,.0f}, PyTorch {theirs:,.0f} optimiser steps/s, {ours / theirs:.2f} times")


def _earlier(path: Path) -> loggers.Record:
    """The earlier results of this machine, commit and versions; without them only these fields."""
    versions = {name: version(name) for name in ("jax", "torch", "numpy")}
    fresh: loggers.Record = {"machine": devices.machine(), "commit": commit(), "versions": versions}
    if path.is_file():
        try:
            earlier = json.loads(path.read_text())
        except ValueError:
            raise UserError(f"out is {str(path.parent)!r}; {path.name} there is no report") from None
        if all(earlier.get(key) == value for key, value in fresh.items()):
            return earlier
    return {**fresh, "cases": {}}


if __name__ == "__main__":
    main()
