"""Configuration: frozen dataclasses, their validation, and their way in and out of JSON.

A file names its schema, the version of its fields: one of an earlier schema is read so that it reproduces its run.

Nothing here needs JAX. In the compiled step `VAEConfig` and `PPOConfig` are pytrees, see `data.types`: their real
numbers are traced leaves, so that changing one does not recompile and a search can be vmapped over them; everything
that changes shapes or code is static.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_type_hints

from dynamite_envs.errors import UserError
from dynamite_jax import rules
from dynamite_jax.errors import ConfigError
from dynamite_jax.sections import NetworkConfig, OfflineConfig, PhysicsConfig, PPOConfig, VAEConfig

if TYPE_CHECKING:
    from dynamite_envs.dlcmdp import DLCMDP

SCHEMA = 6
"""Version of the fields of a config and of the arrays of a checkpoint; files without one are of schema 0."""
ARRAYS = 5
"""Schema since which the arrays of a checkpoint are as they are."""


class Options(dict[str, Any]):
    """Options of an environment by name, their values as JSON has them; a dict that can't be changed.

    So a config that holds one can be hashed, compared, and read back from its file equal.
    """

    def __init__(self, options: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()):
        """Copy the options.

        Raises:
            ConfigError: a value that JSON can't hold.
        """
        try:
            super().__init__(json.loads(json.dumps(dict(options))))
        except TypeError as error:
            raise ConfigError(f"env_options is {options!r}; its values must be those of JSON: {error}") from None

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self))

    def __reduce__(self) -> tuple[type["Options"], tuple[dict[str, Any]]]:
        return Options, (dict(self),)

    def _refuse(self, *arguments: Any, **named: Any) -> NoReturn:
        raise TypeError("options can't be changed; make another config with dataclasses.replace")

    _frozen: Any = _refuse
    __setitem__ = __delitem__ = __ior__ = _frozen
    clear = pop = popitem = setdefault = update = _frozen


def parse_options(entries: Iterable[str], field: str = "env_options") -> Options:
    """Options of the command line: each `name=value`, its value read as JSON.

    Args:
        entries: the words.
        field: name of the option that they are of, in messages.

    Raises:
        ConfigError: an entry without a name or whose value isn't JSON.
    """
    options = {}
    for entry in entries:
        name, equals, value = str(entry).partition("=")
        try:
            options[name] = json.loads(value)
        except ValueError:
            equals = ""
        if not (name and equals):
            raise ConfigError(f"{field} is {entry!r}; it must be name=value with a JSON value, such as p=0.1")
    return Options(options)


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run: everything that its result depends on."""

    env: str = "gridworld"
    """Environment, by its name in envs/dynamite_envs/registry.py."""
    method: str = "dynamite"
    """Method, by its name in dynamite_jax/methods."""
    setting: Literal["online", "offline"] = "online"
    """Whether it learns from episodes that it plays, by PPO, or from recorded ones."""
    env_options: dict[str, Any] = Options()
    """Changes to the environment by name; on the command line `name=value` with JSON values: `p=0.1 swap=0.5`."""
    steps: int = 20_000_000
    """Environment steps of each seed; offline, recorded steps that each seed draws."""
    seeds: int = 4
    """Independent agents, trained side by side."""
    seed: int = 1
    """Root of all random streams; agent i uses the stream seed, i."""
    num_envs: int = 1024
    """Environments of each agent; offline, recorded episodes that it draws for an update."""
    chunk: int = 10
    """Meta-updates compiled into one program; the host reads metrics after each program."""
    eval_episodes: int = 2048
    """Episodes of the final evaluation of each seed."""
    checkpoint_every: int = 5
    """Chunks between two checkpoints; one is always made at the end."""
    checkpoints_kept: int = 2
    """How many of the newest checkpoints are kept; 0 keeps all, so that `collect` can play agents as they were."""
    not_finite: Literal["stop", "skip"] = "stop"
    """What becomes of a meta-update in which something is not finite: the run stops at its last good checkpoint, or the
    agent stays as it was and plays the next one (`skip`)."""
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    vae: VAEConfig = dataclasses.field(default_factory=VAEConfig)
    ppo: PPOConfig = dataclasses.field(default_factory=PPOConfig)
    offline: OfflineConfig = dataclasses.field(default_factory=OfflineConfig)
    physics: PhysicsConfig = dataclasses.field(default_factory=PhysicsConfig)

    def __post_init__(self) -> None:
        """Copy the options of the environment, so that nobody else can change them."""
        if isinstance(self.env_options, dict):
            object.__setattr__(self, "env_options", Options(self.env_options))

    def meta_updates(self, horizon: int) -> int:
        """Meta-updates that make up `steps`, rounded up to whole chunks."""
        chunk = self.chunk * self.num_envs * horizon
        return -(-self.steps // chunk) * self.chunk


_TYPES = get_type_hints(Config)

# Schema of a file -> fields that it may lack since they came later, with the value that reproduces its run; today's
# default may be another.
_LATER_FIELDS: dict[int, dict[str, Any]] = {
    0: {
        "network.action_deviation": 1.0,
        "network.min_action_deviation": 1e-30,
        "network.max_action_deviation": 1e30,
        "ppo.min_return_deviation": 1e-6,
        "ppo.normalise_returns": False,
        "ppo.shuffle": "episodes",
        "physics.impl": "jax",
    },
    1: {"vae.average_rate": 1.0, "vae.reset_at_boundary": False, "ppo.through_encoder": False},
    2: {"ppo.gamma_start": 0.8, "ppo.gamma_rise": 0.0},
    3: {"vae.posterior": "filtered"},
    4: {"not_finite": "stop"},
    5: {
        "setting": "online",
        "checkpoints_kept": 2,
        **{f"offline.{field.name}": field.default for field in dataclasses.fields(OfflineConfig)},
    },
}
# Schema of a file -> fields that it may have and that are gone, with the only value that changes nothing.
_FORMER_FIELDS: dict[int, dict[str, Any]] = {0: {"vae.until": 1.0}}


def validate(config: Config) -> "DLCMDP":
    """Refuse a config that can't run; build the environment of one that can.

    Raises:
        UserError: names the first field that is wrong, its value, and what is allowed.
    """
    from dynamite_envs import registry  # here, since it brings MuJoCo along, which reading a config does not need

    rules.check_values(config)
    rules.check_names(config.env, config.method)
    rules.check_abilities(config)
    env = registry.make(config.env, **_options(config))
    rules.check_horizon(config, env.horizon)
    if config.setting == "offline":
        rules.check_offline(config, env)
    return env


def environment(config: Config) -> "DLCMDP":
    """The environment of a run, another machine's too, with the physics that suits this one.

    Raises:
        UserError: as `validate`.
    """
    return validate(dataclasses.replace(config, physics=PhysicsConfig()))


def settled(config: Config, env: "DLCMDP") -> Config:
    """The config with the name of the backend that computes the physics of its environment, in place of `auto`."""
    simulator = getattr(env, "simulator", None)
    return dataclasses.replace(config, physics=PhysicsConfig(simulator.impl)) if simulator else config


def foreign_physics(config: Config) -> str | None:
    """Why the physics of a run can't be computed here as it was, None where it can."""
    from dynamite_envs.physics.backend import check_implementation

    try:
        if config.physics.impl != "auto":
            check_implementation(config.physics.impl)
    except UserError as error:
        return f"physics.{error}"
    return None


def changed(config: Config, changes: dict[str, Any]) -> Config:
    """The config with some fields changed, each named as in `--help`: `steps`, `ppo.lr`."""
    for name, value in changes.items():
        section, _, field = name.rpartition(".")
        if section:
            field, value = section, dataclasses.replace(getattr(config, section), **{field: value})
        config = dataclasses.replace(config, **{field: value})
    return config


def _options(config: Config) -> dict[str, Any]:
    """Arguments of the environment: its options, and who computes its physics."""
    from dynamite_envs.registry import has_physics

    options = dict(config.env_options)
    for name in ("impl", "worlds"):
        if name in options:
            raise ConfigError(f"env_options sets {name} to {options[name]!r}; it is set by physics.impl")
    if has_physics(config.env):
        of_seeds = config.offline.watched_episodes if config.setting == "offline" else config.num_envs
        worlds = max(config.seeds * of_seeds, config.eval_episodes)  # evaluation takes one seed at a time
        options |= {"impl": config.physics.impl, "worlds": worlds}
    return options


def save(config: Config, path: Path) -> None:
    """Write a config as JSON."""
    path.write_text(to_json(config))


def to_json(config: Config) -> str:
    """The text of a file that holds a config."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def load(path: Path) -> Config:
    """Read what `save` wrote, now or under an earlier schema.

    Raises:
        ConfigError: the file is missing, isn't JSON, or its fields aren't those of a config.
    """
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{path} is not JSON: cut short or edited") from None
    return from_dict(data, str(path))


def to_dict(config: Config) -> dict[str, Any]:
    """The config as JSON has it, with its schema."""
    return {"schema": SCHEMA, **dataclasses.asdict(config)}


def from_dict(data: Any, source: str) -> Config:
    """The way back from `to_dict`, of this schema or an earlier one.

    Args:
        data: the parsed JSON.
        source: path of the file, for messages.

    Raises:
        ConfigError: a schema of a later version, unknown or missing fields, or a value that is not allowed.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{source} holds no config; it must be a JSON object")
    schema = data.get("schema", 0)
    if type(schema) is not int or not 0 <= schema <= SCHEMA:
        raise ConfigError(f"{source}: schema is {schema!r}; this version of dynamite_jax reads 0 to {SCHEMA}")
    values = {}
    for name, value in data.items():
        if dataclasses.is_dataclass(_TYPES.get(name)) and isinstance(value, dict):
            values |= {f"{name}.{field}": inner for field, inner in value.items()}
        elif name != "schema":
            values[name] = value
    for name, neutral in _since(schema, _FORMER_FIELDS).items():
        if values.get(name) == neutral:
            del values[name]
    values = _since(schema, _LATER_FIELDS) | values
    default = Config()
    known = {name for name, _, _ in rules.fields(default)}
    for what, names in (("unknown", values.keys() - known), ("missing", known - values.keys())):
        if names:
            raise ConfigError(f"{source}: fields of the config are {what}: {', '.join(sorted(names))}")
    if schema == 0 and isinstance(values["env_options"], list):
        values["env_options"] = parse_options(values["env_options"])
    values |= {n: tuple(v) for n, v in values.items() if isinstance(v, list) and n != "env_options"}
    config = changed(default, values)
    rules.check_values(config)
    return config


def _since(schema: int, table: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The entries of a table that apply to a file of some schema."""
    return {name: value for number, fields in table.items() if number >= schema for name, value in fields.items()}


def differences(old: Config, new: Config) -> list[str]:
    """Fields in which two configs differ, as `field: old -> new`."""
    pairs = zip(rules.fields(old), rules.fields(new), strict=True)
    return [f"{name}: {a!r} -> {b!r}" for (name, a, _), (_, b, _) in pairs if a != b]
