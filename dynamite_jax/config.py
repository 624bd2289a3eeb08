"""Configuration: frozen dataclasses, their validation, and their way in and out of JSON.

`VAEConfig` and `PPOConfig` are pytrees: their real numbers are traced leaves of the compiled step, so that changing
one does not recompile and a search can be vmapped over them; everything that changes shapes or code is static.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from flax import struct


def _static(default: Any) -> Any:
    return struct.field(pytree_node=False, default=default)


class VAEConfig(struct.PyTreeNode):
    """The belief model's objective and optimisation."""

    lr: float = 1e-3
    """Adam's step size."""
    anneal: float = 0.0
    """Final fraction of training over which the learning rate falls linearly to 0."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm."""
    reward_weight: float = 1.0
    """Weight of the reward reconstruction."""
    state_weight: float = 1.0
    """w_s: weight of the next-state reconstruction, in environments that decode the state."""
    kl_weight: float = 0.01
    """w_kl: weight of the KL to the prior."""
    consistency_weight: float = 0.001
    """beta: weight of session consistency."""
    boundary_weight: float = 1.0
    """w_d: weight of the boundary head's cross-entropy."""
    epochs: int = _static(1)
    """Passes over the trajectories of a meta-update."""
    minibatches: int = _static(8)
    """Minibatches of a pass; they divide the number of trajectories."""
    trajectories: int = _static(0)
    """Trajectories learnt from in a meta-update; 0 takes as many as there are environments."""
    elbo_terms: int = _static(0)
    """Steps t at which the reconstruction is evaluated; 0 takes every step."""
    decode_terms: int = _static(8)
    """Steps j decoded for each t, drawn from its session; 0 decodes the whole session."""
    buffer_episodes: int = _static(0)
    """Past episodes kept to learn from, beside the fresh ones; 0 keeps none."""
    session_mask: bool = _static(True)
    """Reconstruct the session of t alone; off, the whole episode."""
    conditioning: bool = _static(True)
    """Encoder and prior receive the belief that ended the previous session; off, the KL term knows no sessions."""
    consistency: bool = _static(True)
    """Within a session the belief may only move toward its final belief."""
    boundary_head: bool = _static(True)
    """Predict session boundaries."""
    kl_target: Literal["latent_dynamics", "previous_belief"] = _static("latent_dynamics")
    """What the belief is drawn to: the session's prior, or the belief of the step before."""
    boundaries: Literal["labels", "predicted"] = _static("labels")
    """Sessions in the losses: the environment's labels, or the model's own boundaries, learnt without labels."""
    boundary_rate: float = 0.05
    """Assumed switches a step, where boundaries are learnt without labels."""
    boundary_noise: float = 0.2
    """Assumed error of a reward's prediction in deviations of rewards, where boundaries are learnt without labels."""
    boundary_alignment: Literal["evidence", "action"] = _static("evidence")
    """What the boundary head answers at t: is the newest reward from a new session, or is the step to come."""


class PPOConfig(struct.PyTreeNode):
    """The policy's objective and optimisation."""

    lr: float = 7e-4
    """Adam's step size at the start."""
    anneal: float = 0.0
    """Final fraction of training over which learning rate and entropy weight fall linearly to 0."""
    delay: float = 0.0
    """First fraction of training in which a belief that learns by itself does, and the policy does not."""
    clip: float = 0.2
    """Clipping range of the probability ratio, and of the value in the critic's unit."""
    gamma: float = 0.97
    """Discount."""
    gae_lambda: float = 0.95
    """Mixing of n-step advantage estimates."""
    entropy: float = 0.03
    """Weight of the entropy bonus at the start."""
    value_weight: float = 0.5
    """Weight of the value error."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this global norm."""
    normalise_returns: bool = _static(True)
    """The critic's unit: deviations of returns from their running mean; off, the unit of rewards."""
    min_return_deviation: float = 0.1
    """The critic's unit is at least this, in the unit of rewards: the first reward after long without any is no huge
    target. Lower it where all returns are smaller."""
    epochs: int = _static(4)
    """Passes over the steps of a meta-update."""
    minibatches: int = _static(16)
    """Minibatches of a pass; they divide the number of what is shuffled."""
    shuffle: Literal["episodes", "steps"] = _static("episodes")
    """What is dealt out to minibatches: whole episodes, or steps, which a recurrent loss of the policy can't take."""


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the networks."""

    encoder: Literal["gru", "transformer"] = "gru"
    """What makes a belief of the history; the transformer is for methods whose belief is a latent of the episode."""
    latent: int = 5
    """Numbers in the latent z."""
    hidden: int = 64
    """Units of the encoder's recurrent state, or of a token of the transformer."""
    embedding: int = 32
    """Units of the recurrent encoder's input layer."""
    layers: int = 2
    """Layers of the transformer."""
    heads: int = 4
    """Attention heads of the transformer; they divide `hidden`."""
    decoder_hidden: tuple[int, ...] = (32, 32)
    """Hidden layers of the decoders."""
    policy_hidden: tuple[int, ...] = (128, 128)
    """Hidden layers of the policy."""
    value_hidden: tuple[int, ...] = (64, 64)
    """Hidden layers of the critic."""
    activation: Literal["tanh", "relu", "silu"] = "tanh"
    """Activation of policy and critic."""
    action_deviation: float = 1.0
    """Standard deviation of continuous actions at the start, as far as the bounds of it allow."""
    min_action_deviation: float = 1e-3
    """Continuous actions are drawn with at least this standard deviation; they are executed within -1 and 1."""
    max_action_deviation: float = 10.0
    """And with at most this; from 3 on training warns that the policy is noise."""
    feature_clip: float = 5.0
    """Policy features, and what the belief sees, are normalised and clipped to this many deviations."""


@dataclasses.dataclass(frozen=True)
class PhysicsConfig:
    """How MuJoCo's physics is computed, in environments that have it."""

    impl: Literal["jax", "warp"] = "jax"
    """MJX in JAX, or in Warp: the latter only on NVIDIA GPUs, and not reproducible bit for bit."""


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run: everything that its result depends on."""

    env: str = "gridworld"
    """Environment, by its name in envs/dynamite_envs/registry.py."""
    method: str = "dynamite"
    """Method, by its name in dynamite_jax/methods."""
    env_options: tuple[str, ...] = ()
    """Changes to the environment, `name=value` with a JSON value, e.g. `p=0.1 swap=0.5`."""
    steps: int = 20_000_000
    """Environment steps of each seed."""
    seeds: int = 4
    """Independent agents, trained side by side."""
    seed: int = 1
    """Root of all random streams; agent i uses the stream seed, i."""
    num_envs: int = 1024
    """Environments of each agent."""
    chunk: int = 10
    """Meta-updates compiled into one program, between two looks from the host."""
    eval_episodes: int = 2048
    """Episodes of the final evaluation of each seed."""
    checkpoint_every: int = 5
    """Chunks between two checkpoints; one is always made at the end."""
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    vae: VAEConfig = dataclasses.field(default_factory=VAEConfig)
    ppo: PPOConfig = dataclasses.field(default_factory=PPOConfig)
    physics: PhysicsConfig = dataclasses.field(default_factory=PhysicsConfig)

    def meta_updates(self, horizon: int) -> int:
        """Meta-updates that make up `steps`, rounded up to whole chunks."""
        chunk = self.chunk * self.num_envs * horizon
        return -(-self.steps // chunk) * self.chunk


class ConfigError(ValueError):
    """A field holds what it can't; the message is one line with field, value and what is allowed."""


# What each number must be. A field that is not named here is a switch or a choice, which its type checks.
_POSITIVE = ("> 0", lambda x: x > 0)
_NOT_NEGATIVE = ("0 or more", lambda x: x >= 0)
_AT_LEAST_ONE = ("1 or more", lambda x: x >= 1)
_FRACTION = ("between 0 and 1", lambda x: 0 <= x <= 1)
_RULES = {
    **dict.fromkeys(("steps", "seeds", "num_envs", "chunk", "eval_episodes", "checkpoint_every"), _AT_LEAST_ONE),
    "seed": ("0 to 2^32 - 1", lambda x: 0 <= x < 2**32),
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
    **dict.fromkeys(("vae.anneal", "ppo.anneal", "ppo.delay", "ppo.gamma", "ppo.gae_lambda"), _FRACTION),
    **dict.fromkeys(("ppo.entropy", "ppo.value_weight"), _NOT_NEGATIVE),
    **dict.fromkeys(("ppo.epochs", "ppo.minibatches"), _AT_LEAST_ONE),
}


def check(config: Config) -> None:
    """Refuse a config that cannot run.

    Raises:
        ConfigError: names the first field that is wrong, its value, and what is allowed.
    """
    for name, value, kind in _fields(config):
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
    if ppo.shuffle == "episodes" and config.num_envs % ppo.minibatches:
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


def check_against_horizon(config: Config, horizon: int) -> None:
    """Refuse sizes that the episode is too short or the run too small for.

    Raises:
        ConfigError: as `check`.
    """
    if config.steps < config.num_envs * horizon:
        raise ConfigError(
            f"steps is {config.steps}; one meta-update takes num_envs x horizon = {config.num_envs * horizon} steps, "
            "so it must be at least that"
        )
    steps, minibatches = config.num_envs * horizon, config.ppo.minibatches
    if config.ppo.shuffle == "steps" and steps % minibatches:
        raise ConfigError(f"ppo.minibatches is {minibatches}; it must divide num_envs x horizon, {steps}")
    if config.vae.elbo_terms > horizon:
        raise ConfigError(f"vae.elbo_terms is {config.vae.elbo_terms}; it must be at most the horizon, {horizon}")


def changed(config: Config, changes: dict[str, Any]) -> Config:
    """The config with some fields changed, each named as in `--help`: `steps`, `ppo.lr`."""
    for name, value in changes.items():
        section, _, field = name.rpartition(".")
        if section:
            field, value = section, dataclasses.replace(getattr(config, section), **{field: value})
        config = dataclasses.replace(config, **{field: value})
    return config


def env_options(config: Config) -> dict[str, Any]:
    """Options of the environment: each `name=value` with its value read as JSON, and physics where it is not by `jax`.

    Raises:
        ConfigError: an entry without a name or whose value isn't JSON.
    """
    options = {}
    for entry in config.env_options:
        name, equals, value = entry.partition("=")
        try:
            options[name] = json.loads(value)
        except ValueError:
            equals = ""
        if not (name and equals):
            raise ConfigError(f"env_options is {entry!r}; it must be name=value with a JSON value, such as p=0.1")
    for name in ("impl", "worlds"):
        if name in options:
            raise ConfigError(f"env_options sets {name} to {options[name]!r}; it is set by physics.impl")
    if config.physics != PhysicsConfig():
        worlds = max(config.seeds * config.num_envs, config.eval_episodes)  # evaluation takes one seed at a time
        options |= {"impl": config.physics.impl, "worlds": worlds}
    return options


def save(config: Config, path: Path) -> None:
    """Write a config as JSON."""
    path.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def load(path: Path) -> Config:
    """Read what `save` wrote.

    Raises:
        ConfigError: the file is missing, isn't JSON, or its fields aren't those of a config.
    """
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{path} is not JSON: cut short or edited") from None
    config = _from_dict(Config, data, str(path))
    check(config)
    return config


def differences(old: Config, new: Config) -> list[str]:
    """Fields in which two configs differ, as `field: old -> new`."""
    pairs = zip(_fields(old), _fields(new), strict=True)
    return [f"{name}: {a!r} -> {b!r}" for (name, a, _), (_, b, _) in pairs if a != b]


def _fields(config: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, value, type) of every field that is not itself a section."""
    found = []
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        found += _fields(value, name + ".") if dataclasses.is_dataclass(value) else [(name, value, hints[field.name])]
    return found


def _check_type(name: str, value: Any, kind: Any) -> None:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(get_args(kind))}")
    elif get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        if not isinstance(value, tuple) or not all(type(item) is inner for item in value):
            raise ConfigError(f"{name} is {value!r}; it must be a list of {inner.__name__}")
    elif kind is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ConfigError(f"{name} is {value!r}; it must be a finite number")
    elif type(value) is not kind:
        raise ConfigError(f"{name} is {value!r}; it must be of type {kind.__name__}")


def _from_dict(kind: Any, data: Any, where: str) -> Any:
    names = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(data, dict) or sorted(data) != sorted(names):
        strange = sorted(set(data) ^ set(names)) if isinstance(data, dict) else ["?"]
        raise ConfigError(f"{where}: fields of {kind.__name__} are missing or unknown: {', '.join(strange)}")
    hints, values = get_type_hints(kind), {}
    for name, value in data.items():
        if dataclasses.is_dataclass(hints[name]):
            value = _from_dict(hints[name], value, where)
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
