"""Evaluation: the deterministic policy on fresh contexts, and what its belief knows.

python -m dynamite_jax.evaluate --run runs/NAME
"""

import dataclasses
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax.analysis import readout, statistics
from dynamite_jax.beliefs import elbo
from dynamite_jax.config import Config
from dynamite_jax.data.rollout import Agent, play
from dynamite_jax.data.types import Acting, TrainState
from dynamite_jax.errors import one_line_errors, parse, writing
from dynamite_jax.runtime import devices, loggers
from dynamite_jax.runtime.checkpoints import Checkpoints
from dynamite_jax.runtime.program import Program

RECOVERED = 0.9  # share of the way back to the reward before the switch that counts as recovered
DETECTION_WINDOW = 3  # steps by which a boundary may be found late


def evaluate(config: Config, env: DLCMDP, agent: Agent, states: TrainState, episodes: int, seed: int) -> loggers.Record:
    """Play fresh episodes with every seed's agent.

    Args:
        config: the run.
        env: its environment.
        agent: its agent.
        states: trained states, [seeds, ...].
        episodes: episodes of each seed.
        seed: root of the contexts and start states; every agent meets the same.

    Returns:
        `return` (per seed, IQM, interval), `fraction_of_bayes_optimal` and `regret` where they are known,
        `references`, `sessions`, `recovery`, `boundary` and `belief`, see the functions below; `outcomes`, the means of
        what the environment counts.
    """
    acting = jax.device_put(jax.device_get(states.acting), jax.local_devices()[0])
    root = jax.random.fold_in(jax.random.key(seed), 0x5EED)  # apart from every training stream
    one = partial(_play_and_filter, env, agent, episodes)
    recorded = jax.device_get(jax.jit(lambda acting, key: jax.lax.map(lambda a: one(a, key), acting))(acting, root))

    reward, session = recorded["reward"], recorded["session"]  # [seeds, H, N]
    result: loggers.Record = {"return": statistics.summarise(reward.sum(1).mean(-1)), "episodes": episodes}
    result["references"] = env.references()
    if best := result["references"].get("bayes_optimal"):
        result["fraction_of_bayes_optimal"] = result["return"]["iqm"] / best
        result["fraction_of_bayes_optimal_per_seed"] = [value / best for value in result["return"]["per_seed"]]
    if recorded["outcomes"]:  # [seeds, N]
        result["outcomes"] = {name: statistics.summarise(x.mean(-1)) for name, x in recorded["outcomes"].items()}
    if "physics" in recorded:
        side_by_side = lambda x: np.concatenate(list(x), axis=1)  # noqa: E731  [seeds, H, N, ...] -> [H, seeds N, ...]
        lost = env.regret(*jax.tree.map(side_by_side, (recorded["physics"], recorded["action"], reward)))
        result["regret"] = statistics.summarise(lost.reshape(len(reward), episodes).mean(-1))
    result["sessions"] = session_returns(reward, session)
    result["recovery"] = recovery(reward, session)
    if agent.belief.detects:
        result["boundary"] = detection(recorded["boundary"], session, config.vae.boundary_alignment)
    if "exact" in recorded:
        errors = {"readout_error": recorded["readout"]}
        if "decoded" in recorded:
            errors["decoded_error"] = np.abs(recorded["decoded"] - recorded["exact"]).mean((1, 2, 3))
        nothing = float(np.abs(recorded["exact"] - np.asarray(env.init_posterior())).mean())
        result["belief"] = {name: statistics.summarise(error) for name, error in errors.items()}
        result["belief"] |= {"error_of_knowing_nothing": nothing}
    return result


def _play_and_filter(env: DLCMDP, agent: Agent, episodes: int, acting: Acting, key: jax.Array) -> dict[str, Any]:
    """Records of one seed, [H, N, ...]: reward, session, boundary; what regret and posterior need, where known.

    `outcomes` are those of the episodes, [N].
    """
    reset_key, key, sample_key, reader_key = jax.random.split(key, 4)
    environment = jax.vmap(env.reset)(jax.random.split(reset_key, episodes))
    belief = agent.belief.initial((episodes,))
    rollout, environments, beliefs = play(agent, env, acting, environment, belief, key, deterministic=True)
    recorded: dict[str, Any] = {"reward": rollout.reward, "session": rollout.session, "boundary": rollout.boundary}
    physics = environments.physics
    recorded["outcomes"] = jax.vmap(env.outcomes)(jax.tree.map(lambda x: x[-1], physics))
    if agent.belief.told:
        return recorded
    if env.has_regret:
        recorded |= {"physics": physics, "action": rollout.action}
    if not env.has_filter:
        return recorded
    start = jnp.tile(env.init_posterior(), (episodes, 1))

    def step(posterior: jax.Array, seen: Any) -> tuple[jax.Array, jax.Array]:
        following, reward = seen
        return jax.vmap(env.filter_step)(posterior, following, reward), posterior

    after = jax.tree.map(lambda x: x[1:], physics)
    exact = jax.lax.scan(step, start, (after, rollout.reward))[1]
    features = agent.normalise(acting.normaliser, "features", rollout.features[:-1])
    recorded |= {"exact": exact, "readout": readout.error(features, exact, reader_key)}
    if not agent.belief.decodes:
        return recorded

    def decoded(physics: Any, belief: Any) -> jax.Array:
        decode = partial(agent.expected_reward, acting, belief, sample_key)
        return env.decoded_posterior(physics, decode)

    now = jax.tree.map(lambda x: x[:-1], (physics, beliefs))
    return recorded | {"decoded": jax.lax.map(lambda x: jax.vmap(decoded)(*x), now)}


def session_returns(reward: np.ndarray, session: np.ndarray) -> list[loggers.Record]:
    """Return and mean reward per step by session index, over all seeds and episodes that reach the session.

    Args:
        reward: [seeds, H, N].
        session: [seeds, H, N], -1 behind the end of an episode.
    """
    rows = []
    for index in range(int(session.max()) + 1):
        inside = session == index
        reached = inside.any(1)
        total = np.where(inside, reward, 0.0).sum(1)[reached]
        rows.append(
            {
                "session": index,
                "return": float(total.mean()),
                "reward_per_step": float(reward[inside].mean()),
                "episodes": int(reached.sum()),
            }
        )
    return rows


def recovery(reward: np.ndarray, session: np.ndarray) -> loggers.Record:
    """How fast reward comes back after a switch.

    Args:
        reward: [seeds, H, N].
        session: [seeds, H, N], -1 behind the end of an episode, which is no switch.

    Returns:
        `before`: mean reward of the step before a switch. `curve`: mean reward k steps after it, over the
        sessions that are that long, as far as a hundred are. `steps`: the first k at which the curve has made up
        `RECOVERED` of what was lost; None if it never does or nothing ever switches.
    """
    switch = (session[:, 1:] != session[:, :-1]) & (session[:, 1:] >= 0)
    if not switch.any():
        return {"before": None, "curve": [], "steps": None}
    before = float(reward[:, :-1][switch].mean())
    start = np.zeros_like(session)
    start[:, 1:][switch] = 1
    step = np.arange(session.shape[1])[None, :, None]
    since = step - np.maximum.accumulate(np.where(start == 1, step, -session.shape[1]), axis=1)
    after_a_switch = session > 0
    curve = []
    for k in range(session.shape[1]):
        values = reward[after_a_switch & (since == k)]
        if len(values) < 100:
            break
        curve.append(float(values.mean()))
    if not curve:
        return {"before": before, "curve": [], "steps": None}
    wanted = curve[0] + RECOVERED * (before - curve[0])
    steps = next((k for k, value in enumerate(curve) if value >= wanted), None)
    return {"before": before, "curve": curve, "steps": steps}


def detection(found: np.ndarray, session: np.ndarray, alignment: str) -> loggers.Record:
    """Precision and recall of the boundaries that the agent acted by.

    Args:
        found: predicted boundaries, [seeds, H, N].
        session: [seeds, H, N], -1 behind the end of an episode, where nothing counts.
        alignment: what a boundary means, see `elbo.boundary_labels`.

    Returns:
        `exact` counts a hit on the very step; `late` also one up to `DETECTION_WINDOW` steps after. A boundary
        between two steps that told nothing can't be found by anyone, so recall below 1 is no fault by itself.
    """
    label = np.asarray(jax.vmap(partial(elbo.boundary_labels, alignment=alignment))(jnp.asarray(session))) > 0.5
    label, found = label & (session >= 0), found & (session >= 0)
    result = {}
    for name, window in (("exact", 0), ("late", DETECTION_WINDOW)):
        hit = _recent(label, window) & found
        recalled = _recent(found[:, ::-1], window)[:, ::-1] & label
        result[name] = {
            "precision": float(hit.sum() / found.sum()) if found.any() else None,
            "recall": float(recalled.sum() / label.sum()) if label.any() else None,
        }
    return result


def _recent(mark: np.ndarray, window: int) -> np.ndarray:
    """Whether a mark stands at the step or up to `window` steps before it, [seeds, H, N]."""
    spread = mark.copy()
    for lag in range(1, window + 1):
        spread[:, lag:] |= mark[:, :-lag]
    return spread


def load_run(run: Path, episodes: int) -> tuple[Program, TrainState, int]:
    """Config and newest valid checkpoint of a run folder, to play `episodes` of each seed: (program, states, chunk).

    Raises:
        UserError: there is no run, or none of its checkpoints can be trusted.
    """
    if not (run / "config.json").is_file():
        raise UserError(f"run is {str(run)!r}; it must be a run folder, one with a config.json")
    config = dataclasses.replace(configs.load(run / "config.json"), eval_episodes=episodes)
    devices.setup(config.seeds)
    env = configs.validate(config)
    if not (run / "checkpoints").is_dir():
        raise UserError(f"run is {str(run)!r}; it has no checkpoints folder to evaluate from")
    program = Program(config, env)
    checkpoints = Checkpoints(run / "checkpoints")
    step, states, damaged = checkpoints.restore(program.gather(program.init()))
    checkpoints.close()
    for line in damaged:
        print(f"warning: {line}; using step {step}", file=sys.stderr)
    return program, states, step


def report(result: loggers.Record) -> None:
    """Print an evaluation as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result['episodes']} episodes a seed", show_header=False)
    returns = result["return"]
    table.add_row("return, IQM [95 % interval]", "{:.2f} [{:.2f}, {:.2f}]".format(returns["iqm"], *returns["ci95"]))
    table.add_row("return, each seed", ", ".join(f"{value:.2f}" for value in returns["per_seed"]))
    for name, value in result["references"].items():
        table.add_row(name.replace("_", "-"), f"{value:.2f}")
    if "fraction_of_bayes_optimal" in result:
        table.add_row("fraction of Bayes-optimal", f"{result['fraction_of_bayes_optimal']:.2%}")
    for name, value in result.get("outcomes", {}).items():
        table.add_row(name, "{:.2f} [{:.2f}, {:.2f}]".format(value["iqm"], *value["ci95"]))
    if "regret" in result:
        regret = result["regret"]
        table.add_row("regret, IQM [95 % interval]", "{:.3f} [{:.3f}, {:.3f}]".format(regret["iqm"], *regret["ci95"]))
    rows = result["sessions"][:6]
    table.add_row(
        "reward a step by session",
        ", ".join(f"{row['session']}: {row['reward_per_step']:.2f}" for row in rows),
    )
    if result["recovery"]["steps"] is not None:
        table.add_row("steps to recover after a switch", str(result["recovery"]["steps"]))
    for name, value in result.get("boundary", {}).items():
        said = ["-" if value[key] is None else f"{value[key]:.2f}" for key in ("precision", "recall")]
        table.add_row(f"boundaries, {name}: precision, recall", ", ".join(said))
    if belief := result.get("belief"):
        known = {
            "posterior read off the belief": "readout_error",
            "posterior by the reward decoder": "decoded_error",
        }
        for title, name in known.items():
            if name in belief:
                told = f"{belief[name]['iqm']:.3f} (knowing nothing: {belief['error_of_knowing_nothing']:.3f})"
                table.add_row(f"error of the {title}", told)
    Console().print(table)


@dataclass(frozen=True)
class Arguments:
    """Evaluate a trained run: deterministic policy, fresh contexts. Writes evaluation.json into the run."""

    run: Path
    """Run folder, as written by training."""
    episodes: int = 2048
    """Episodes of each seed."""
    seed: int = 1_000_000
    """Root of the contexts and start states."""


@one_line_errors
def main() -> None:
    """Evaluate, print, write."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m dynamite_jax.evaluate")
    if arguments.episodes < 1:
        raise UserError(f"episodes is {arguments.episodes}; it must be 1 or more")
    program, states, step = load_run(arguments.run, arguments.episodes)
    result = evaluate(program.config, program.env, program.agent, states, arguments.episodes, arguments.seed)
    result |= {"chunk": step, "seed": arguments.seed}
    report(result)
    path = arguments.run / "evaluation.json"
    with writing(path, field="evaluation"):
        path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
