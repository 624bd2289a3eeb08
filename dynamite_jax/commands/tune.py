"""Random search over the numbers of a preset: all trials train side by side in one compiled program.

python -m dynamite_jax.commands.tune --env gridworld --methods dynamite
"""

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax import presets
from dynamite_jax.algorithms import meta_ppo as train_step
from dynamite_jax.commands import runs
from dynamite_jax.config import Config
from dynamite_jax.errors import one_line_errors, parse
from dynamite_jax.evaluate import evaluate
from dynamite_jax.methods import METHODS
from dynamite_jax.runtime import devices
from dynamite_jax.runtime.loggers import Record
from dynamite_jax.runtime.program import Program

ROOT = 1000  # tuning seeds; results are reported from root seed 1
FACTOR = 3.0  # a trial multiplies each number by something between 1 / FACTOR and FACTOR
SEARCHED = ("ppo.lr", "ppo.entropy", "ppo.gamma", "vae.lr", "vae.kl_weight", "vae.consistency_weight")


@dataclass(frozen=True)
class Arguments:
    """Search around the preset as it stands; the best trial becomes the preset of runs started from here.

    Trials are short. The best of them train again to the end with other seeds, and the choice falls among these.
    """

    env: str = "gridworld"
    """Environment."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Methods; every one gets the same budget."""
    trials: int = 8
    """Settings tried, the preset itself among them."""
    seeds: int = 2
    """Agents of each trial; a finalist has twice as many."""
    steps: int | None = None
    """Environment steps of each agent in a trial; by default half of the preset's, which finalists train for."""
    finalists: int = 2
    """Best trials that train again."""
    out: Path = presets.FOUND
    """Where ENV_METHOD.json goes; in the default folder, runs started from here find it. What is to be shipped goes to
    dynamite_jax/tuned in a checkout."""


def schedules(config: Config) -> list[dict[str, float]]:
    """Ways of cutting up an update, which change the program: the config's own, and one of larger minibatches.

    Only the first where minibatches can't be larger.
    """
    own = {name: _value(config, name) for name in ("vae.minibatches", "ppo.minibatches", "ppo.delay")}
    large = {name: max(1, value // 4) for name, value in own.items() if name != "ppo.delay"} | {"ppo.delay": 0.0}
    return [own] if large == own else [own, large]


def candidates(config: Config, trials: int, seed: int = ROOT) -> list[dict[str, float]]:
    """Settings to try, by field. The schedules take turns, first with the config's own numbers.

    After that each number is multiplied by a log-uniform factor; of the discount it is the distance from 1 that is
    multiplied. All methods meet the same factors.
    """
    rng = np.random.default_rng(seed)
    ways = schedules(config)
    found = []
    for trial in range(trials):
        setting = dict(ways[trial % len(ways)])
        for name in SEARCHED:
            value = _value(config, name)
            factor = float(np.exp(rng.uniform(-1.0, 1.0) * np.log(FACTOR))) if trial >= len(ways) else 1.0
            setting[name] = 1.0 - min(1.0, (1.0 - value) * factor) if name == "ppo.gamma" else value * factor
        found.append(setting)
    return found


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
    found = {}
    for way in schedules(config):
        members = [number for number, setting in enumerate(settings) if way.items() <= setting.items()]
        if members:
            scores = _side_by_side(configs.changed(config, way), [settings[number] for number in members])
            found |= dict(zip(members, scores, strict=True))
    return [found[number] for number in range(len(settings))]


def _side_by_side(config: Config, settings: list[dict[str, float]]) -> list[float]:
    """`search` among settings that differ in traced numbers only."""
    trials = len(settings)
    wide = dataclasses.replace(config, seeds=config.seeds * trials)
    env = configs.validate(wide)
    program = Program(wide, env)
    states = program.init(ids=[*range(config.seeds)] * trials)
    each = [configs.changed(config, setting) for setting in settings for _ in range(config.seeds)]
    hyper: train_step.Hyper = jax.tree.map(
        lambda *values: jnp.asarray(values, jnp.float32), *[(one.vae, one.ppo) for one in each]
    )
    step = program.compile(states, hyper)
    for _ in track(range(program.chunks), description=f"{trials} trials of {config.method}"):
        states, _ = step(states)
        jax.block_until_ready(states.finite)
    states = program.gather(states)
    sizes = {"episodes": config.eval_episodes, "seed": config.seed}
    result = evaluate(wide, program.env, program.agent, states.agent_params, **sizes)
    returns = np.where(jax.device_get(states.finite), result["return"]["per_seed"], np.nan)
    return [float(value) for value in returns.reshape(trials, config.seeds).mean(1)]


def choose(preset: Config, settings: list[dict[str, float]], scores: list[float], arguments: Arguments) -> Record:
    """Train the best trials again to the end and choose among them.

    Args:
        preset: of the method, as it stands.
        settings: the trials.
        scores: their returns, nan where a loss was not finite.
        arguments: of the command.

    Returns:
        The record that becomes the preset.

    Raises:
        UserError: no trial, or no finalist, ended with finite losses.
    """
    order = [trial for trial in np.argsort(scores)[::-1] if np.isfinite(scores[trial])]
    finalists = [settings[trial] for trial in order[: arguments.finalists]]
    config = dataclasses.replace(preset, seeds=2 * arguments.seeds, seed=ROOT + 1)
    returns = search(config, finalists)
    if not np.isfinite(returns).any():
        raise UserError(f"method is {preset.method!r}; every trial of it ended in a loss that is not finite")
    shown = lambda returns, settings: [  # noqa: E731
        {"return": score, **setting} for score, setting in zip(returns, settings, strict=True)
    ]
    return {
        "env": preset.env,
        "method": preset.method,
        "changes": finalists[int(np.nanargmax(returns))],
        "trials": presets.tuning_trials(preset) + arguments.trials,
        "root_seeds": [ROOT, config.seed],
        "agents": [arguments.seeds, config.seeds],
        "steps": [_trial_steps(preset, arguments), preset.steps],
        "searched": shown(scores, settings),
        "finalists": shown(returns, finalists),
    }


def _trial_steps(preset: Config, arguments: Arguments) -> int:
    return arguments.steps or max(1, preset.steps // 2)


@one_line_errors
def main() -> None:
    """Search, write, say what was chosen."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m dynamite_jax.commands.tune")
    for name in ("trials", "seeds", "finalists"):
        if getattr(arguments, name) < 1:
            raise UserError(f"{name} is {getattr(arguments, name)}; it must be 1 or more")
    runs.make_folder(arguments.out)
    devices.setup(2 * arguments.seeds)
    for method in arguments.methods:
        preset = presets.default(arguments.env, method)
        config = dataclasses.replace(preset, seeds=arguments.seeds, seed=ROOT, steps=_trial_steps(preset, arguments))
        settings = candidates(config, arguments.trials)
        record = choose(preset, settings, search(config, settings), arguments)
        path = arguments.out / f"{arguments.env}_{method}.json"
        path.write_text(json.dumps(record, indent=2) + "\n")
        best = max(final["return"] for final in record["finalists"])
        print(f"{method}: return {best:.2f} with {record['changes']} -> {path}")


if __name__ == "__main__":
    main()
