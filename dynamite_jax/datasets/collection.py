"""Recording a set of episodes, shard by shard; one that was cut off goes on."""

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_envs.errors import UserError
from dynamite_envs.spaces import Discrete
from dynamite_jax.config import Config
from dynamite_jax.datasets.dataset import CARD, SCHEMA, Dataset, digest_of_file, files, read_shard, write_shard
from dynamite_jax.datasets.recording import Episodes, can_relabel
from dynamite_jax.datasets.sources import Sources
from dynamite_jax.errors import writing
from dynamite_jax.runtime import devices, lock, provenance

STREAM = 0xC011EC7  # apart from every stream of training and evaluation
PLAN = "plan.json"
"""What is collected, written first: it has to be the same when a collection goes on."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What to collect.

    Attributes:
        config: names the environment; nothing else of it is used.
        policies: who plays, see `sources.Policy`.
        episodes: how many, a multiple of `shard`.
        shard: episodes of a shard.
        seed: root of all random streams.
    """

    config: Config
    policies: tuple[str, ...]
    episodes: int
    shard: int
    seed: int


def collect(request: Request, env: DLCMDP, out: Path, say: Callable[[int, int], None]) -> Dataset:
    """Play and write what is missing of a set.

    Args:
        request: what to collect.
        env: the environment.
        out: folder, new, empty, or that of the same collection.
        say: is told how many of how many shards are written.

    Raises:
        UserError: the folder holds something else, a policy can't be played, or nothing can be written.
    """
    sources = Sources(request.policies, request.config, env, request.shard)
    played = sources.plan(request.episodes // request.shard)
    plan = {
        "env": request.config.env,
        "env_options": dict(request.config.env_options),
        "policies": sources.described(),
        "episodes": request.episodes,
        "shard": request.shard,
        "seed": request.seed,
        "played": [dataclasses.asdict(who) for who in played],
    }

    def play(number: int) -> Episodes:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(request.seed), STREAM), number)
        return sources.play(played[number], request.shard, key)

    return record(plan, play, env, out, say)


def record(
    plan: dict[str, Any], play: Callable[[int], Episodes], env: DLCMDP, out: Path, say: Callable[[int, int], None]
) -> Dataset:
    """Write what is missing of a set.

    Args:
        plan: all that its episodes depend on: `env`, `env_options`, `policies`, `episodes`, `shard`, `seed`, and
            `played`, who plays each shard.
        play: the episodes of the shard of a number.
        env: the environment.
        out: folder, new, empty, or that of the same plan.
        say: is told how many of how many shards are written.

    Raises:
        UserError: the folder holds something else, or nothing can be written.
    """
    shards = len(plan["played"])
    with contextlib.ExitStack() as stack:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock.lock(out))
        _claim(out, plan)
        if (out / CARD).is_file():
            return Dataset.open(out, env)
        for number in range(shards):
            if not all(path.is_file() for path in files(out, number)):
                episodes = jax.device_get(play(number))
                write_shard(out, number, episodes if can_relabel(env) else episodes.replace(physics=None))
            say(number + 1, shards)
        _write(out / CARD, _card(plan, out, env))
    return Dataset.open(out, env)


def _claim(out: Path, plan: dict[str, Any]) -> None:
    """Note the plan in a new folder; refuse one that holds anything but its own collection."""
    if (out / PLAN).is_file():
        try:
            earlier = dict(json.loads((out / PLAN).read_text()))
        except (ValueError, TypeError):
            raise UserError(f"out is {str(out)!r}, whose {PLAN} is damaged; name a new folder") from None
        for name, value in json.loads(json.dumps(plan)).items():
            if earlier.get(name) != value:
                held = "episodes of other policies" if name in ("policies", "played") else f"{name} {earlier.get(name)}"
                raise UserError(f"out is {str(out)!r}, whose collection has {held}; name a new folder")
        return
    if others := [path.name for path in out.iterdir() if path.name not in (lock.NAME, lock.CLAIM, f"{PLAN}.part")]:
        raise UserError(f"out is {str(out)!r}, which holds {others[0]}; name a new folder")
    _write(out / PLAN, plan)


def _card(plan: dict[str, Any], out: Path, env: DLCMDP) -> dict[str, Any]:
    """The card of a set whose shards are all written."""
    shards, parts, physics = [], [], True
    for number, who in enumerate(plan["played"]):
        episodes = read_shard(out, number, env)
        digests = [digest_of_file(path) for path in files(out, number)]
        shards.append({"episodes": episodes.reward.shape[1], "source": who, "sha256": digests})
        parts.append(_measured(episodes, env))
        physics = physics and episodes.physics is not None
    return {
        "schema": SCHEMA,
        "env": plan["env"],
        "env_options": plan["env_options"],
        "horizon": env.horizon,
        "policies": plan["policies"],
        "seed": plan["seed"],
        "physics": physics,
        "statistics": statistics(parts, env),
        "shards": shards,
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "machine": devices.machine(),
    }


def _measured(episodes: Any, env: DLCMDP) -> dict[str, np.ndarray]:
    """What the statistics of a set need of one shard."""
    valid = np.asarray(episodes.valid)
    action = episodes.action
    if isinstance(env.action_space, Discrete):
        counts = np.bincount(action[valid], minlength=env.action_space.size)
        moments = counts[None]
    else:
        chosen = action[valid].astype(float)
        moments = np.stack([np.full(chosen.shape[-1], len(chosen)), chosen.sum(0), (chosen**2).sum(0)])
    return {
        "returns": np.where(valid, episodes.reward, 0.0).sum(0),
        "steps": valid.sum(0),
        "sessions": 1 + np.where(valid, episodes.session[:-1], 0).max(0),
        "reward": np.array([episodes.reward[valid].min(), episodes.reward[valid].max()]),
        "terminated": episodes.terminated.any(0),
        "action": moments,
    }


def statistics(parts: list[dict[str, np.ndarray]], env: DLCMDP) -> dict[str, Any]:
    """Statistics of a set from what was measured of its shards."""

    def all_of(name: str) -> np.ndarray:
        return np.concatenate([part[name] for part in parts])

    returns, steps, sessions, rewards = map(all_of, ("returns", "steps", "sessions", "reward"))
    quantiles = np.quantile(returns, [0.0, 0.25, 0.5, 0.75, 1.0])
    action = np.sum([part["action"] for part in parts], axis=0)
    if isinstance(env.action_space, Discrete):
        of_actions = {"share_of_each": (action[0] / action.sum()).round(6).tolist()}
    else:
        count, total, squares = action
        mean = total / count
        of_actions = {"mean": mean.tolist(), "deviation": np.sqrt(np.maximum(squares / count - mean**2, 0.0)).tolist()}
    return {
        "episodes": len(returns),
        "steps": int(steps.sum()),
        "return_mean": float(returns.mean()),
        "return_deviation": float(returns.std()),
        "return_quantiles": quantiles.tolist(),
        "reward_range": [float(rewards.min()), float(rewards.max())],
        "sessions_per_episode": float(sessions.mean()),
        "boundaries": int((sessions - 1).sum()),
        "steps_per_session": float(steps.sum() / sessions.sum()),
        "terminated": float(all_of("terminated").mean()),
        "action": of_actions,
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    with writing(path):
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps(content, indent=2) + "\n")
        part.replace(path)
