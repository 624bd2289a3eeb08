"""What a search of presets varies: ways of dividing an update, and numbers; each method only what it uses."""

import numpy as np

from dynamite_jax import config as configs
from dynamite_jax.beliefs.belief import Belief
from dynamite_jax.config import Config
from dynamite_jax.methods import METHODS

FACTOR = 3.0  # a trial multiplies each number by a factor between 1 / FACTOR and FACTOR

Setting = dict[str, float]
"""Changes of a preset by field."""


def belief_of(config: Config) -> Belief:
    """The belief of a config's method, which says what the method uses.

    Raises:
        UserError: the config can't run.
    """
    method = METHODS[config.method]
    return method.build(config, method.environment(configs.validate(config)))


def schedules(config: Config, belief: Belief) -> list[Setting]:
    """Ways of dividing an update, at most six, in this order; those that would be alike are left out.

    1. The config's own.
    2. A policy that does not wait: what waiting costs differs between methods. Only where a belief learns by itself.
    3. Larger minibatches, a quarter as many, and no waiting: fewer steps of the optimisers, each of less noise.
    4. Twice the passes of the policy, which also train the memory where no other loss does.
    5. More learning of a belief that learns by itself, which may be what a method lacks: all trajectories and twice the
       epochs.
    6. Four times as many decoded steps: targets of less noise. Only where rewards are decoded, and not all already are.

    Args:
        config: where the search starts.
        belief: that of the config.

    Returns:
        Changes of the config, all of the same fields.
    """
    vae, ppo = config.vae, config.ppo
    fields = ["ppo.minibatches", "ppo.epochs"]
    larger: Setting = {"ppo.minibatches": _quarter(ppo.minibatches)}
    longer: Setting = {"ppo.epochs": 2 * ppo.epochs}
    if belief.learns:
        fields += ["ppo.delay", "vae.minibatches", "vae.epochs", "vae.trajectories"]
        all_divide = config.num_envs % vae.minibatches == 0 and vae.trajectories <= config.num_envs
        every = 0 if all_divide else vae.trajectories
        changes = [
            {"ppo.delay": 0.0},
            larger | {"vae.minibatches": _quarter(vae.minibatches), "ppo.delay": 0.0},
            longer,
            {"vae.trajectories": every, "vae.epochs": 2 * vae.epochs},
        ]
        if belief.decodes:
            fields.append("vae.decode_terms")
            changes.append({"vae.decode_terms": 4 * vae.decode_terms})
    else:
        changes = [larger, longer]
    own: Setting = {name: _value(config, name) for name in fields}
    different = [own]
    for change in changes:
        if (schedule := own | change) not in different:
            different.append(schedule)
    return different


def numbers(config: Config, belief: Belief) -> list[str]:
    """Fields whose numbers are varied: those that have an effect on the config's method.

    Assumed switches and errors count only where boundaries are learnt without labels; `secbad` takes the rate of
    switches from its environment and learns its errors.
    """
    latent = belief.learns and belief.decodes
    unlabelled = latent and config.vae.boundaries == "predicted"
    used = {
        "ppo.lr": True,
        "ppo.entropy": True,
        "ppo.gamma": True,
        "ppo.gamma_start": config.ppo.gamma_rise > 0.0,
        "vae.lr": belief.learns,
        "vae.average_rate": belief.learns and not config.ppo.through_encoder,
        "vae.kl_weight": latent,
        "vae.consistency_weight": latent and config.vae.consistency,
        "vae.boundary_rate": unlabelled,
        "vae.boundary_noise": unlabelled,
    }
    return [name for name, matters in used.items() if matters]


def draw(config: Config, belief: Belief, trials: int, seed: int) -> list[Setting]:
    """Settings to try. The schedules alternate, the first of each with the config's own numbers.

    After that each number is multiplied by a log-uniform factor; for discounts the factor multiplies the distance from
    1, for a rate of switches its odds, and a share is at most 1. A trial has the same factors for all methods.

    Args:
        config: where the search starts.
        belief: that of the config.
        trials: number of settings.
        seed: of the factors.
    """
    alternating = schedules(config, belief)
    settings = []
    for trial in range(trials):
        setting = dict(alternating[trial % len(alternating)])
        for name in numbers(config, belief):
            factor = 1.0 if trial < len(alternating) else _factor(seed, trial, name)
            setting[name] = _scaled(name, _value(config, name), factor)
        if "ppo.gamma_start" in setting:
            setting["ppo.gamma_start"] = min(setting["ppo.gamma_start"], setting["ppo.gamma"])
        settings.append(setting)
    return settings


def _factor(seed: int, trial: int, name: str) -> float:
    rng = np.random.default_rng([seed, trial, *name.encode()])
    return float(np.exp(rng.uniform(-1.0, 1.0) * np.log(FACTOR)))


def _scaled(name: str, value: float, factor: float) -> float:
    if name in ("ppo.gamma", "ppo.gamma_start"):
        return 1.0 - min(1.0, (1.0 - value) * factor)
    if name == "vae.average_rate":
        return min(1.0, value * factor)
    if name == "vae.boundary_rate":
        return value * factor / (1.0 - value + value * factor)
    return value * factor


def _quarter(count: int) -> int:
    """The greatest number of minibatches that is at most a quarter of `count`, or 1, and divides it."""
    return max(number for number in range(1, max(1, count // 4) + 1) if count % number == 0)


def _value(config: Config, name: str) -> float:
    section, _, field = name.rpartition(".")
    return getattr(getattr(config, section), field)
