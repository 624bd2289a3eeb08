"""Random search over the numbers of a preset: all trials train side by side in one compiled program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.analysis.evaluation import evaluate
from dynamite_jax.config import Config
from dynamite_jax.runtime.loggers import Record
from dynamite_jax.runtime.program import Program

ROOT = 1000  # tuning seeds; results are reported from root seed 1
FACTOR = 3.0  # a trial multiplies each number by a factor between 1 / FACTOR and FACTOR
SEARCHED = ("ppo.lr", "ppo.entropy", "ppo.gamma", "vae.lr", "vae.kl_weight", "vae.consistency_weight")


def schedules(config: Config) -> list[dict[str, float]]:
    """Ways of dividing an update, which change the program: the config's own, and one of larger minibatches.

    Only the first where minibatches can't be larger.
    """
    own = {name: _value(config, name) for name in ("vae.minibatches", "ppo.minibatches", "ppo.delay")}
    large = {name: max(1, value // 4) for name, value in own.items() if name != "ppo.delay"} | {"ppo.delay": 0.0}
    return [own] if large == own else [own, large]


def candidates(config: Config, trials: int, seed: int = ROOT) -> list[dict[str, float]]:
    """Settings to try, by field. The schedules alternate, first with the config's own numbers.

    After that each number is multiplied by a log-uniform factor; for the discount the factor multiplies its distance
    from 1. The factors are the same for all methods.
    """
    rng = np.random.default_rng(seed)
    alternating = schedules(config)
    settings = []
    for trial in range(trials):
        setting = dict(alternating[trial % len(alternating)])
        for name in SEARCHED:
            value = _value(config, name)
            factor = float(np.exp(rng.uniform(-1.0, 1.0) * np.log(FACTOR))) if trial >= len(alternating) else 1.0
            setting[name] = 1.0 - min(1.0, (1.0 - value) * factor) if name == "ppo.gamma" else value * factor
        settings.append(setting)
    return settings


def _value(config: Config, name: str) -> float:
    section, _, field = name.rpartition(".")
    return getattr(getattr(config, section), field)


def search(config: Config, settings: list[dict[str, float]]) -> list[float]:
    """Mean return of the deterministic policy with each setting, nan where a loss was not finite.

    Settings that share a schedule train side by side in one program.

    Args:
        config: `seeds` is the number of agents of each setting, `seed` their root.
        settings: some of `candidates`.
    """
    scores: dict[int, float] = {}
    for schedule in schedules(config):
        members = [number for number, setting in enumerate(settings) if schedule.items() <= setting.items()]
        if members:
            returns = _side_by_side(configs.changed(config, schedule), [settings[number] for number in members])
            scores |= dict(zip(members, returns, strict=True))
    return [scores[number] for number in range(len(settings))]


def _side_by_side(config: Config, settings: list[dict[str, float]]) -> list[float]:
    """`search` among settings that differ in traced numbers only."""
    trials = len(settings)
    all_trials = dataclasses.replace(config, seeds=config.seeds * trials)
    program = Program(all_trials, configs.validate(all_trials))
    states = program.init(ids=[*range(config.seeds)] * trials)
    agent_configs = [configs.changed(config, setting) for setting in settings for _ in range(config.seeds)]

    def stack(*values: float) -> jax.Array:
        return jnp.asarray(values, jnp.float32)

    hyper = jax.tree.map(stack, *[(agent.vae, agent.ppo) for agent in agent_configs])
    step = program.compile(states, hyper)
    for _ in track(range(program.chunks), description=f"{trials} trials of {config.method}"):
        states, _ = step(states)
        jax.block_until_ready(states.finite)
    states = program.gather(states)
    result = evaluate(program, states.agent_params, episodes=config.eval_episodes, seed=config.seed)
    returns = np.where(jax.device_get(states.finite), result["return"]["per_seed"], np.nan)
    return [float(value) for value in returns.reshape(trials, config.seeds).mean(1)]


def tune(preset: Config, trial: Config, *, trials: int, finalists: int) -> Record:
    """Try settings around a preset, train the best of them again to the end, and choose among these.

    Args:
        preset: of a method, as it is.
        trial: the same with the seeds, the root seed and the steps of a trial.
        trials: number of settings to try, the preset's own among them.
        finalists: number of best trials that train again, for the steps of the preset, with twice as many, other seeds.

    Returns:
        The record that is written as the new preset.

    Raises:
        UserError: no trial, or no finalist, ended with finite losses.
    """
    settings = candidates(trial, trials)
    scores = search(trial, settings)
    order = [number for number in np.argsort(scores)[::-1] if np.isfinite(scores[number])]
    best = [settings[number] for number in order[:finalists]]
    final = dataclasses.replace(preset, seeds=2 * trial.seeds, seed=trial.seed + 1)
    returns = search(final, best)
    if not np.isfinite(returns).any():
        raise UserError(f"method is {preset.method!r}; every trial of it ended in a loss that is not finite")
    return {
        "env": preset.env,
        "method": preset.method,
        "changes": best[int(np.nanargmax(returns))],
        "trials": presets.tuning_trials(preset) + trials,
        "root_seeds": [trial.seed, final.seed],
        "agents": [trial.seeds, final.seeds],
        "steps": [trial.steps, final.steps],
        "searched": _scored(scores, settings),
        "finalists": _scored(returns, best),
    }


def _scored(returns: list[float], settings: list[dict[str, float]]) -> list[dict[str, float]]:
    """Settings, each with its return."""
    return [{"return": score, **setting} for score, setting in zip(returns, settings, strict=True)]
