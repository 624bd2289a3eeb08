"""Rules for the values of a config's fields, alone, together, and with a method in an environment."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from dynamite_envs.errors import UserError
from dynamite_jax.errors import ConfigError

if TYPE_CHECKING:
    from dynamite_envs.dlcmdp import DLCMDP
    from dynamite_jax.config import Config

# What each number must be. A field that is not named here is a switch or a choice, which its type checks.
_POSITIVE = ("> 0", lambda x: x > 0)
_NOT_NEGATIVE = ("0 or more", lambda x: x >= 0)
_AT_LEAST_ONE = ("1 or more", lambda x: x >= 1)
_FRACTION = ("between 0 and 1", lambda x: 0 <= x <= 1)
_ROOT = ("0 to 2^32 - 1", lambda x: 0 <= x < 2**32)  # of random streams
_RULES = {
    **dict.fromkeys(("steps", "seeds", "num_envs", "chunk", "eval_episodes", "checkpoint_every"), _AT_LEAST_ONE),
    "checkpoints_kept": _NOT_NEGATIVE,
    "seed": _ROOT,
    **dict.fromkeys(
        ("network.latent", "network.hidden", "network.embedding", "network.layers", "network.heads"), _AT_LEAST_ONE
    ),
    **dict.fromkeys(
        ("network.decoder_hidden", "network.policy_hidden", "network.value_hidden"),
        ("a list of sizes of 1 or more", lambda x: all(isinstance(n, int) and n >= 1 for n in x)),
    ),
    **dict.fromkeys(
        (
            "network.feature_clip",
            "network.action_deviation",
            "network.min_action_deviation",
            "network.max_action_deviation",
        ),
        _POSITIVE,
    ),
    **dict.fromkeys(("vae.lr", "vae.max_grad_norm", "vae.boundary_noise"), _POSITIVE),
    "vae.average_rate": ("above 0 and at most 1", lambda x: 0 < x <= 1),
    "vae.boundary_rate": ("between 0 and 1, both excluded", lambda x: 0 < x < 1),
    **dict.fromkeys(
        (
            "vae.reward_weight",
            "vae.state_weight",
            "vae.kl_weight",
            "vae.consistency_weight",
            "vae.boundary_weight",
        ),
        _NOT_NEGATIVE,
    ),
    **dict.fromkeys(("vae.epochs", "vae.minibatches"), _AT_LEAST_ONE),
    **dict.fromkeys(("vae.trajectories", "vae.elbo_terms", "vae.decode_terms", "vae.buffer_episodes"), _NOT_NEGATIVE),
    **dict.fromkeys(("ppo.lr", "ppo.clip", "ppo.max_grad_norm", "ppo.min_return_deviation"), _POSITIVE),
    **dict.fromkeys(
        (
            "vae.anneal",
            "ppo.anneal",
            "ppo.delay",
            "ppo.gamma",
            "ppo.gamma_start",
            "ppo.gamma_rise",
            "ppo.gae_lambda",
        ),
        _FRACTION,
    ),
    **dict.fromkeys(("ppo.entropy", "ppo.value_weight"), _NOT_NEGATIVE),
    **dict.fromkeys(("ppo.epochs", "ppo.minibatches"), _AT_LEAST_ONE),
    **dict.fromkeys(("offline.lr", "offline.critic_lr", "offline.max_grad_norm", "offline.max_weight"), _POSITIVE),
    **dict.fromkeys(("offline.relabel", "offline.anneal", "offline.gamma", "offline.expectile"), _FRACTION),
    "offline.polyak": ("above 0 and at most 1", lambda x: 0 < x <= 1),
    **dict.fromkeys(
        ("offline.temperature", "offline.bc_weight", "offline.noise", "offline.cql_weight", "offline.entropy"),
        _NOT_NEGATIVE,
    ),
    **dict.fromkeys(
        ("offline.critics", "offline.epochs", "offline.minibatches", "offline.watched_episodes"), _AT_LEAST_ONE
    ),
}


def allowed(name: str) -> str | None:
    """The rule for a number in words; None for a field that only has a type."""
    return _RULES[name][0] if name in _RULES else None


def fields(config: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, value, type) of every field that is not itself a section."""
    leaves = []
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        leaves += fields(value, name + ".") if dataclasses.is_dataclass(value) else [(name, value, hints[field.name])]
    return leaves


def check_root(name: str, value: int) -> None:
    """Refuse what is no root of random streams.

    Raises:
        ConfigError: names it, its value and what is allowed.
    """
    allowed, holds = _ROOT
    if not holds(value):
        raise ConfigError(f"{name} is {value}; it must be {allowed}")


def check_values(config: "Config") -> None:
    """Refuse values that are not allowed, alone or together.

    Raises:
        ConfigError: names the field, its value and what is allowed.
    """
    for name, value, kind in fields(config):
        _check_type(name, value, kind)
        if name in _RULES:
            allowed, holds = _RULES[name]
            if not holds(value):
                raise ConfigError(f"{name} is {value!r}; it must be {allowed}")
    vae, ppo, network = config.vae, config.ppo, config.network
    if network.encoder == "transformer" and network.hidden % network.heads:
        raise ConfigError(
            f"network.hidden is {network.hidden}; it must be a multiple of network.heads, {network.heads}"
        )
    if network.max_action_deviation < network.min_action_deviation:
        raise ConfigError(
            f"network.max_action_deviation is {network.max_action_deviation}; it must be at least "
            f"network.min_action_deviation, {network.min_action_deviation}"
        )
    if ppo.gamma_rise and ppo.gamma_start > ppo.gamma:
        raise ConfigError(f"ppo.gamma_start is {ppo.gamma_start}; it must be at most ppo.gamma, {ppo.gamma}, to rise")
    online = config.setting == "online"
    if online and config.offline.data:
        raise ConfigError(f"offline.data is {config.offline.data!r}; with setting 'online' it must be left out")
    if online and ppo.shuffle == "episodes" and config.num_envs % ppo.minibatches:
        raise ConfigError(f"num_envs is {config.num_envs}; it must be a multiple of ppo.minibatches, {ppo.minibatches}")
    trajectories = vae.trajectories or config.num_envs
    if trajectories % vae.minibatches:
        source = "vae.trajectories" if vae.trajectories else "num_envs"
        raise ConfigError(f"{source} is {trajectories}; it must be a multiple of vae.minibatches, {vae.minibatches}")
    if not vae.buffer_episodes and trajectories > config.num_envs:
        raise ConfigError(
            f"vae.trajectories is {trajectories}; without a buffer it is at most num_envs, {config.num_envs}"
        )
    if 0 < vae.buffer_episodes < config.num_envs:
        raise ConfigError(
            f"vae.buffer_episodes is {vae.buffer_episodes}; it must be 0 or at least num_envs, {config.num_envs}"
        )
    if vae.boundaries == "predicted" and not vae.boundary_head:
        raise ConfigError("vae.boundaries is 'predicted'; without vae.boundary_head it must be 'labels'")
    if vae.boundaries == "predicted" and vae.boundary_alignment == "action":
        raise ConfigError("vae.boundary_alignment is 'action'; without labels it must be 'evidence'")
    if vae.reset_at_boundary and not vae.boundary_head:
        raise ConfigError("vae.reset_at_boundary is True; without vae.boundary_head it must be False")
    if vae.reset_at_boundary and network.encoder != "gru":
        raise ConfigError(f"vae.reset_at_boundary is True; with network.encoder {network.encoder!r} it must be False")
    if vae.posterior == "session" and vae.kl_target != "latent_dynamics":
        raise ConfigError(
            f"vae.kl_target is {vae.kl_target!r}; with vae.posterior 'session' it must be 'latent_dynamics'"
        )
    if ppo.through_encoder and ppo.shuffle != "episodes":
        raise ConfigError(f"ppo.shuffle is {ppo.shuffle!r}; with ppo.through_encoder it must be 'episodes'")
    if ppo.through_encoder and vae.average_rate != 1.0:
        raise ConfigError(f"vae.average_rate is {vae.average_rate}; with ppo.through_encoder it must be 1")


def check_horizon(config: "Config", horizon: int) -> None:
    """Refuse sizes that the episode is too short or the run too small for.

    Raises:
        ConfigError: names the field, its value and what is allowed.
    """
    if config.steps < config.num_envs * horizon:
        raise ConfigError(
            f"steps is {config.steps}; one meta-update takes num_envs x horizon = {config.num_envs * horizon} steps, "
            "so it must be at least that"
        )
    steps, minibatches = config.num_envs * horizon, config.ppo.minibatches
    if config.setting == "online" and config.ppo.shuffle == "steps" and steps % minibatches:
        raise ConfigError(f"ppo.minibatches is {minibatches}; it must divide num_envs x horizon, {steps}")
    if config.vae.elbo_terms > horizon:
        raise ConfigError(f"vae.elbo_terms is {config.vae.elbo_terms}; it must be at most the horizon, {horizon}")


def check_offline(config: "Config", env: "DLCMDP") -> None:
    """Refuse what recorded episodes of an environment can't be learnt by.

    Raises:
        ConfigError: names the field, its value and what is allowed.
    """
    from dynamite_envs.spaces import Discrete
    from dynamite_jax.datasets.recording import can_relabel

    offline, steps = config.offline, config.num_envs * env.horizon
    if not offline.data:
        raise ConfigError("offline.data is ''; with setting 'offline' it must be a folder of recorded episodes")
    if offline.learner == "td3bc" and isinstance(env.action_space, Discrete):
        raise ConfigError(
            f"offline.learner is 'td3bc'; with the discrete actions of {config.env} it must be 'iql', 'cql' or 'bc'"
        )
    if steps % offline.minibatches:
        raise ConfigError(f"offline.minibatches is {offline.minibatches}; it must divide num_envs x horizon, {steps}")
    if offline.relabel and not can_relabel(env):
        raise ConfigError(
            f"offline.relabel is {offline.relabel}; in {config.env} as it is, which can't tell rewards under other "
            "contexts, it must be 0"
        )
    if config.vae.buffer_episodes:
        raise ConfigError(f"vae.buffer_episodes is {config.vae.buffer_episodes}; with setting 'offline' it must be 0")


def check_names(env: str, method: str) -> None:
    """Refuse an unknown environment or method.

    Raises:
        ConfigError: names the nearest one.
    """
    from dynamite_envs.registry import MAKERS, nearest
    from dynamite_jax.methods import METHODS  # here, since methods import configs, and those these rules

    if env not in MAKERS:
        raise ConfigError(f"env is {env!r}; {nearest(env, MAKERS)}")
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}; {nearest(method, METHODS)}")


def check_abilities(config: "Config") -> None:
    """Refuse an encoder, minibatches, gradients or physics that the method or the environment can't use.

    Raises:
        ConfigError: names the field, its value and what is allowed.
    """
    from dynamite_envs.physics.backend import check_implementation
    from dynamite_envs.registry import has_physics
    from dynamite_jax.methods import METHODS

    impl = config.physics.impl
    if impl not in ("auto", "jax") and not has_physics(config.env):
        raise ConfigError(f"physics.impl is {impl!r}; in {config.env} it must be 'auto'")
    if impl != "auto":
        try:
            check_implementation(impl)
        except UserError as error:
            raise ConfigError(f"physics.{error}") from None
    method = METHODS[config.method]
    for name, value, supported in (
        ("ppo.shuffle", config.ppo.shuffle, method.shuffles),
        ("setting", config.setting, method.settings),
        ("network.encoder", config.network.encoder, method.encoders),
        ("vae.posterior", config.vae.posterior, method.posteriors),
        ("ppo.through_encoder", config.ppo.through_encoder, (False, True) if method.through_encoder else (False,)),
    ):
        if value not in supported:
            allowed = " or ".join(map(repr, supported))
            raise ConfigError(f"{name} is {value!r}; with method {config.method} it must be {allowed}")


def _check_type(name: str, value: Any, kind: Any) -> None:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(get_args(kind))}")
    elif get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{name} is {value!r}; it must be options by name, as in {{'p': 0.1}}")
    elif get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        if not isinstance(value, tuple) or not all(type(item) is inner for item in value):
            raise ConfigError(f"{name} is {value!r}; it must be a list of {inner.__name__}")
    elif kind is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ConfigError(f"{name} is {value!r}; it must be a finite number")
    elif type(value) is not kind:
        raise ConfigError(f"{name} is {value!r}; it must be of type {kind.__name__}")
