"""A DLCMDP as an environment of gymnax, for trainers in JAX that take those, such as PureJaxRL."""

from typing import Any

import jax.numpy as jnp
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from dynamite_envs import registry
from dynamite_envs.dlcmdp import DLCMDP, Array, State
from dynamite_envs.spaces import Box
from dynamite_envs.wrappers import ObserveFeedback


class GymnaxEnv(Environment):
    """The context is hidden and changes; gymnax's `step` begins the next episode at the end of one.

    The numbers of the environment are gymnax's parameters: `env.default_params.replace(p=0.1)` is what `params` may be.
    Random streams lie in the state: the key of `reset` fixes an episode, that of `step` counts only where the next one
    begins.
    """

    def __init__(self, env: str | DLCMDP, labels: bool = False, *, feedback: bool = False, **options: Any):
        """An environment.

        Args:
            env: name in the registry, or an environment.
            labels: whether `info` holds what is hidden: `context`, the features of the context of the next step, [C],
                the index of its `session`, and whether it has just `switched`.
            feedback: whether the last action and its reward are observed, as in `wrappers.ObserveFeedback`.
            **options: of the environment of that name.

        Raises:
            UserError: an unknown name or option, a value that can't be one, or options of an environment that is made.
        """
        self._env = registry.resolve(env, **options)
        self._labels, self._feedback = labels, feedback

    @property
    def default_params(self) -> DLCMDP:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The environment itself."""
        return self._env

    def reset_env(self, key: Array, params: DLCMDP) -> tuple[Array, State]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Begin an episode: its first observation, [O], and state."""
        state = self._observed(params).reset(key)
        return state.obs, state

    def step_env(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, key: Array, state: State, action: Array, params: DLCMDP
    ) -> tuple[Array, State, Array, Array, dict[str, Array]]:
        """Observation, state, reward, whether the task has ended, and the labels if they are asked for."""
        state = self._observed(params).step(state, action)
        info = {}
        if self._labels:
            features = params.context_features(state.context)
            info = {"context": features, "session": state.session, "switched": state.switched}
        return state.obs, state, state.reward, state.terminated, info

    def is_truncated(self, state: State, params: DLCMDP) -> Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Whether the horizon is over."""
        return state.truncated

    def is_terminated(self, state: State, params: DLCMDP) -> Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Whether the task has ended."""
        return state.terminated

    @property
    def name(self) -> str:
        """Of the class of the environment."""
        return type(self._env.unwrapped).__name__

    @property
    def num_actions(self) -> int:
        """Number of actions, or their length where they are continuous."""
        space = self._env.action_space
        return space.size if isinstance(space, Box) else space.n

    def action_space(self, params: DLCMDP | None = None) -> spaces.Space:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Numbers in [-1, 1], or one of some."""
        space = self._env.action_space
        return spaces.Box(-1.0, 1.0, (space.size,)) if isinstance(space, Box) else spaces.Discrete(space.n)

    def observation_space(self, params: DLCMDP | None = None) -> spaces.Box:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Any numbers, [O]."""
        return spaces.Box(-jnp.inf, jnp.inf, (self._observed(self._env).observation_size,))

    def _observed(self, params: DLCMDP) -> DLCMDP:
        return ObserveFeedback.of(params) if self._feedback else params
