"""What a method is: a belief and the algorithm that learns with it."""

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from dynamite_envs.errors import UserError
from dynamite_jax.config import Config

if TYPE_CHECKING:
    from dynamite_envs.dlcmdp import DLCMDP
    from dynamite_jax.agents.agent import Agent
    from dynamite_jax.algorithms.algorithm import Algorithm
    from dynamite_jax.beliefs.belief import Belief


OFFLINE = "dynamite_jax.algorithms.offline:Offline"


def keep(config: Config) -> Config:
    """Change nothing in the preset of an environment."""
    return config


@dataclass(frozen=True)
class Method:
    """A belief x an algorithm, and what the two support.

    Functions are given themselves or as `module:name`, which is imported when it is called.

    Attributes:
        belief: (config, env) -> `Belief`.
        algorithm: (config, agent) -> `Algorithm`, of the online setting.
        configure: the preset of an environment -> that of this method in it.
        encoders: values of `network.encoder` that the belief can use.
        settings: values of `setting` that the belief can learn in.
        shuffles: values of `ppo.shuffle` that the loss of the policy can use.
        posteriors: values of `vae.posterior` that the belief can learn by.
        through_encoder: whether `ppo.through_encoder` can be set.
        observes_context: whether its agents observe the true context.
    """

    belief: str | Callable[..., Any]
    algorithm: str | Callable[..., Any] = "dynamite_jax.algorithms.meta_ppo:MetaPPO"
    configure: Callable[[Config], Config] = keep
    encoders: tuple[str, ...] = ("gru",)
    settings: tuple[str, ...] = ("online", "offline")
    shuffles: tuple[str, ...] = ("episodes", "steps")
    posteriors: tuple[str, ...] = ("filtered",)
    through_encoder: bool = False
    observes_context: bool = False

    def build(self, config: Config, env: "DLCMDP") -> "Belief":
        """The belief that a config asks for in an environment."""
        return _resolve(self.belief)(config, env)

    def learner(self, config: Config, agent: "Agent") -> "Algorithm":
        """The algorithm that trains an agent.

        Raises:
            UserError: it shall learn from recorded episodes, and its belief has no loss of its own.
        """
        if config.setting == "offline" and agent.belief.end_to_end:
            raise UserError(f"setting is 'offline'; the belief of {config.method} learns by the policy's loss alone")
        return _resolve(OFFLINE if config.setting == "offline" else self.algorithm)(config, agent)

    def environment(self, env: "DLCMDP") -> "DLCMDP":
        """The environment that its agents act in."""
        if not self.observes_context:
            return env
        from dynamite_envs.wrappers import ObserveContext

        return ObserveContext.of(env)


def _resolve(target: str | Callable[..., Any]) -> Callable[..., Any]:
    return resolve_name(target) if isinstance(target, str) else target
