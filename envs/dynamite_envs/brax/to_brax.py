"""A DLCMDP as an environment of brax, on which its trainers and those of others run."""

from typing import Any

import jax
import jax.numpy as jnp
from brax.envs.base import Env
from brax.envs.base import State as BraxState

from dynamite_envs import registry
from dynamite_envs.dlcmdp import DLCMDP, Array, State
from dynamite_envs.errors import UserError
from dynamite_envs.spaces import Box
from dynamite_envs.wrappers import ObserveContext, Wrapper


class BraxEnv(Env):
    """The context is hidden and changes; brax's `EpisodeWrapper` with `episode_length` ends the episodes.

    brax begins every episode of an environment in one and the same state. Random streams go on, so that the sessions of
    the next one are others; they lie in `info`, which brax does not reset, as data of keys.

    Attributes:
        env: the environment.
        episode_length: its horizon.
    """

    def __init__(self, env: str | DLCMDP, labels: bool = False, *, feedback: bool = False, **options: Any):
        """An environment.

        Args:
            env: name in the registry, or an environment.
            labels: whether `info` holds what is hidden: `context`, the features of the context of the next step, [C],
                and the index of its `session`.
            feedback: whether the last action and its reward are observed, as in `wrappers.ObserveFeedback`.
            **options: of the environment of that name.

        Raises:
            UserError: its actions are not continuous; an unknown name or option, a value that can't be one, or options
                of an environment that is made.
        """
        self.env = registry.resolve(env, feedback=feedback, **options)
        if not isinstance(self.env.action_space, Box):
            raise UserError(
                f"env is {type(self.env).__name__}, whose actions are discrete; those of brax are continuous"
            )
        self.episode_length = self.env.horizon
        self._labels = labels
        self._told = _shows_context(self.env)

    def reset(self, rng: Array) -> BraxState:
        """Begin an episode.

        Args:
            rng: a key, or the data of one.
        """
        key = rng if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(rng)
        return self._shown(self.env.reset(key), info={}, metrics={})

    def step(self, state: BraxState, action: Array) -> BraxState:
        """Make a step; the first one of an episode draws its first context."""
        before: State = state.pipeline_state  # pyright: ignore[reportAssignmentType]
        streams = {name: jax.random.wrap_key_data(data) for name, data in state.info["streams"].items()}
        before = before.replace(**streams)
        if not self._told:  # or the observation shows the context already
            latent_key, context_key = jax.random.split(before.latent_key)
            fresh, begins = self.env.init_context(context_key), before.step == 0
            context = jax.tree.map(lambda new, old: jnp.where(begins, new, old), fresh, before.context)
            before = before.replace(context=context, latent_key=latent_key)
        return self._shown(self.env.step(before, action), info=state.info, metrics=state.metrics)

    @property
    def observation_size(self) -> int:
        """Length of observations."""
        return self.env.observation_size

    @property
    def action_size(self) -> int:
        """Length of actions, which lie in [-1, 1]."""
        return self.env.action_space.size

    @property
    def backend(self) -> str:
        """What computes physics; `none` where nothing is computed."""
        env = self.env.unwrapped
        if (simulator := getattr(env, "simulator", None)) is not None:
            return simulator.impl
        return getattr(getattr(env, "body", None), "backend", "none")

    def _shown(self, state: State, *, info: dict[str, Any], metrics: dict[str, Array]) -> BraxState:
        """What brax is shown of a state; `info` and `metrics` keep what wrappers have put there."""
        streams = {name: jax.random.key_data(getattr(state, name)) for name in ("key", "latent_key")}
        info = {**info, "streams": streams}
        if self._labels:
            info |= {"context": self.env.context_features(state.context), "session": state.session}
        return BraxState(
            pipeline_state=state,  # pyright: ignore[reportArgumentType]
            obs=state.obs,
            reward=state.reward,
            done=state.terminated.astype(jnp.float32),
            metrics={**metrics, "switches": state.switched.astype(jnp.float32)},
            info=info,
        )


def _shows_context(env: DLCMDP) -> bool:
    """Whether a wrapper lets the context be observed."""
    return isinstance(env, ObserveContext) or (isinstance(env, Wrapper) and _shows_context(env.env))
