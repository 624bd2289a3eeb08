"""Train a belief on played episodes and measure what it knows of the context, step by step since a switch.

python -m experiments.beliefs.bench --env scratch_itch --method dynamite --updates 1000
"""

import dataclasses
import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import dynamite_jax as dj
from dynamite_envs import registry
from dynamite_envs.dlcmdp import DLCMDP
from dynamite_envs.errors import UserError
from dynamite_jax.config import Config, VAEConfig, parse_options
from dynamite_jax.data.types import Array, Params, Trajectories
from dynamite_jax.errors import one_line_errors, parse, writing
from dynamite_jax.methods import METHODS
from dynamite_jax.runtime import devices, loggers, provenance
from experiments.beliefs import episodes, learning, particle_filter
from experiments.beliefs.episodes import Episodes

FILTERS = {"filter": False, "filter_told": True}
"""Particle filters by name, and whether they are told when the context switches."""
SINCE = (3, 10, 20, 40)
"""Steps after a switch at which beliefs are measured."""


@dataclass(frozen=True)
class Arguments:
    """Train a belief on played episodes and measure what it knows of the context, step by step since a switch."""

    env: str = "scratch_itch"
    """Environment."""
    method: str = "dynamite"
    """Method whose belief learns; `filter` for an ideal observer, `filter_told` for one that is told of switches."""
    updates: int = 1000
    """Updates of the belief."""
    batch: int = 32
    """Episodes in an update."""
    episodes: int = 3072
    """Episodes that are learnt from."""
    held_out: int = 512
    """Other episodes, that beliefs are tested on."""
    deviation: float = 0.7
    """Of the random actions that make the episodes."""
    run: Path | None = None
    """Episodes of this run's policy instead."""
    seed: int = 1000
    """Root of all random numbers."""
    particles: int = 4096
    """Contexts that a filter follows in each episode."""
    noise: float = 0.01
    """Error that a filter allows rewards, in their unit."""
    set: tuple[str, ...] = ()
    """Fields of the config that differ from the preset, as in `--set vae.lr=0.002 network.hidden=64`."""
    out: Path | None = None
    """JSON file that the measurement is added to."""


def measured(told: np.ndarray, played: Episodes, env: DLCMDP) -> loggers.Record:
    """How far off `told` is after some steps of a session.

    Args:
        told: the facts as a belief has them, [H, N, D].
        played: the episodes, N.
        env: the environment.

    Returns:
        `since`, those of `SINCE` that sessions here came to; for each of them the mean `error`, a distance, and the
        share of each fact's variance that is `explained`.
    """
    since, facts = np.asarray(played.since), np.asarray(played.facts)
    record: loggers.Record = {"since": [], "error": [], "explained": []}
    for steps in SINCE:
        chosen = (since == steps) & np.asarray(played.trajectories.valid)
        if not chosen.any():
            continue
        missed = told[chosen] - facts[chosen]
        variance = np.maximum(facts[chosen].var(0), 1e-12)
        record["since"].append(steps)
        record["error"].append(float(np.linalg.norm(missed[:, episodes.place(env)], axis=1).mean()))
        record["explained"].append([float(x) for x in 1.0 - (missed**2).mean(0) / variance])
    return record


def learnt(config: Config, env: DLCMDP, played: Episodes, held_out: Episodes, arguments: Arguments) -> np.ndarray:
    """The facts about held-out episodes as a belief has them that has learnt from those played, [H, M, D]."""
    belief = METHODS[config.method].build(config, env)
    if not belief.learns:
        raise UserError(f"method is {config.method!r}, whose belief has no loss of its own")
    evidence = learning.Evidence.of(env, belief, config.network.feature_clip, played)
    learn_key, read_key = jax.random.split(jax.random.key(arguments.seed + 1))

    @jax.jit
    def learn(data: Trajectories, hyper: VAEConfig) -> Params:
        sizes = {"updates": arguments.updates, "batch": arguments.batch}
        return learning.learn(belief, data, learn_key, hyper=hyper, **sizes)

    @jax.jit
    def read(params: Params, data: Trajectories, facts: Array, tested: Trajectories) -> Array:
        features = [jax.vmap(belief.features)(belief.encode(params, x)) for x in (data, tested)]
        return learning.read(features[0], facts, features[1], read_key)

    data = evidence(played)
    return np.asarray(read(learn(data, config.vae), data, played.facts, evidence(held_out)))


def kept(out: Path | None) -> list[loggers.Record]:
    """Measurements that the file holds already.

    Raises:
        UserError: it holds something else.
    """
    if not (out and out.is_file()):
        return []
    try:
        return list(json.loads(out.read_text())["variants"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"out is {str(out)!r}, which holds no measurements of beliefs; move it away") from None


@one_line_errors
def main() -> None:
    """Measure one belief and print it as a JSON line."""
    arguments = parse(Arguments, sys.argv[1:])
    for name in ("updates", "batch", "episodes", "held_out", "particles"):
        if getattr(arguments, name) < 1:
            raise UserError(f"{name} is {getattr(arguments, name)}; it must be at least 1")
    method = "dynamite" if arguments.method in FILTERS else arguments.method
    changes: dict[str, Any] = parse_options(arguments.set, "set")
    changes = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    config, earlier = dj.preset(arguments.env, method, **changes), kept(arguments.out)
    devices.setup(1)
    key, count = jax.random.key(arguments.seed), arguments.episodes + arguments.held_out
    start = time.perf_counter()
    if arguments.run:
        run = dj.load_run(arguments.run)
        options = changes.get("env_options", run.config.env_options)
        if (config.env, options) != (run.config.env, run.config.env_options):
            raise UserError(f"env is {config.env} {options}; the run is of {run.config.env} {run.config.env_options}")
        env = run.program.env.unwrapped
        everything = episodes.of_run(run, count, key)
    else:
        env = registry.make(config.env, **config.env_options)
        play = jax.jit(partial(episodes.of_random_actions, env, count, arguments.deviation))
        everything = jax.block_until_ready(play(key))
    played, held_out = everything.part(0, arguments.episodes), everything.part(arguments.episodes, count)
    played_s, start = time.perf_counter() - start, time.perf_counter()
    if arguments.method in FILTERS:
        told = particle_filter.estimate(
            env,
            held_out,
            particles=arguments.particles,
            noise=arguments.noise,
            told=FILTERS[arguments.method],
            key=jax.random.key(arguments.seed + 1),
        )
    else:
        told = learnt(config, env, played, held_out, arguments)
    record = {name: value for name, value in dataclasses.asdict(arguments).items() if name != "out"}
    record |= {"run": arguments.run and str(arguments.run), **measured(np.asarray(told), held_out, env)}
    record |= {"played_s": played_s, "seconds": time.perf_counter() - start}
    record |= {"commit": provenance.commit(), "machine": devices.machine()}
    print(json.dumps(record))
    if arguments.out:
        with writing(arguments.out):
            arguments.out.write_text(json.dumps({"variants": [*earlier, record]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
