"""One environment behind Gymnasium's interface."""

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax.serialization import to_state_dict

from dynamite_envs import pictures, registry
from dynamite_envs.dlcmdp import DLCMDP, State
from dynamite_envs.spaces import Box, Discrete

Array = jax.Array


class GymnasiumEnv(gymnasium.Env[np.ndarray, Any]):
    """A DLCMDP as a `gymnasium.Env`: the context is hidden, and changes within the episode.

    The end of the horizon is a truncation. Episodes are the same for the same seed, actions and machine.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": pictures.FPS}

    def __init__(
        self,
        env: str | DLCMDP,
        labels: bool = False,
        render_mode: str | None = None,
        *,
        feedback: bool = False,
        **options: Any,
    ):
        """An environment that is not yet reset.

        Args:
            env: name in the registry, or an environment.
            labels: whether `info` holds what is hidden: `context`, the features of the context of the next step, [C],
                the index of its `session`, whether it has just `switched`, and `latent`, that context as the
                environment holds it: an array, or a dict of its fields.
            render_mode: None or `rgb_array`.
            feedback: whether the last action and its reward are observed, as in `wrappers.ObserveFeedback`.
            **options: of the environment of that name.

        Raises:
            UserError: an unknown name or option, a value that can't be one, or options of an environment that is made.
        """
        if render_mode is not None:
            pictures.without_display()
        self.env = registry.resolve(env, feedback=feedback, **options)
        self.observation_space = observation_space(self.env)
        self.action_space = action_space(self.env)
        self.render_mode = render_mode
        self.metadata = self.metadata | {"render_fps": pictures.frame_rate(self.env)}
        self._labels = labels
        self._state: Any = None
        self._over = False
        self._scene: pictures.Scene | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode, by a stream of its own where there is a seed; there are no `options`."""
        super().reset(seed=seed, options=options)
        self._state, shown = reset(self.env, words(self.np_random))
        self._over = False
        return np.array(shown["observation"]), self._info(shown)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Make one step.

        Raises:
            ResetNeeded: the episode is over.
        """
        if self._state is None or self._over:
            raise gymnasium.error.ResetNeeded("the episode is over or has not begun: call reset() before step()")
        self._state, shown = step(self.env, self._state, action)
        shown = jax.device_get(shown)
        terminated, truncated = bool(shown["terminated"]), bool(shown["truncated"])
        self._over = terminated or truncated
        return np.array(shown["observation"]), float(shown["reward"]), terminated, truncated, self._info(shown)

    def render(self) -> np.ndarray | None:
        """The picture of the last state, its context drawn too, [height, width, 3]; None unless `rgb_array`.

        Raises:
            ResetNeeded: no episode has begun.
        """
        if self.render_mode is None:
            return None
        if self._state is None:
            raise gymnasium.error.ResetNeeded("no episode has begun: call reset() before render()")
        if self._scene is None:
            self._scene = pictures.scene(self.env)
        return self._scene.draw(self._state)

    def close(self) -> None:
        """Free the renderer."""
        if self._scene is not None:
            self._scene.close()
            self._scene = None

    def _info(self, shown: dict[str, Any]) -> dict[str, Any]:
        if not self._labels:
            return {}
        return {
            "context": np.array(shown["context"]),
            "session": int(shown["session"]),
            "switched": bool(shown["switched"]),
            "latent": jax.tree.map(np.array, shown["latent"]),
        }


def observation_space(env: DLCMDP) -> gymnasium.spaces.Box:
    """Observations, whose bounds are not known."""
    return gymnasium.spaces.Box(-np.inf, np.inf, (env.observation_size,), np.float32)


def action_space(env: DLCMDP) -> gymnasium.Space:
    """Actions; continuous ones in [-1, 1]."""
    space = env.action_space
    if isinstance(space, Discrete):
        return gymnasium.spaces.Discrete(space.n)
    return gymnasium.spaces.Box(-1.0, 1.0, (space.size,), np.float32)


def words(stream: np.random.Generator) -> np.ndarray:
    """What makes the key of an episode, drawn from the stream of an environment, [2]."""
    return stream.integers(2**32, size=2, dtype=np.uint32)


def start(env: DLCMDP, words: Array) -> State:
    """The state that an episode begins with."""
    return env.reset(jax.random.wrap_key_data(words, impl="threefry2x32"))


def show(env: DLCMDP, state: State) -> dict[str, Any]:
    """What Gymnasium is shown of a state, and its labels."""
    return {
        "observation": state.obs,
        "reward": state.reward,
        "terminated": state.terminated,
        "truncated": state.truncated,
        "context": env.context_features(state.context),
        "session": state.session,
        "switched": state.switched,
        "latent": to_state_dict(state.context),
    }


@jax.jit
def reset(env: DLCMDP, words: Array) -> tuple[State, dict[str, Any]]:
    """A new episode, and what is shown of it."""
    state = start(env, words)
    return state, show(env, state)


@jax.jit
def step(env: DLCMDP, state: State, action: Any) -> tuple[State, dict[str, Any]]:
    """The state after an action, and what is shown of it."""
    state = env.step(state, to_ours(env, action))
    return state, show(env, state)


def to_ours(env: DLCMDP, action: Any) -> Array:
    """An action of Gymnasium's, or a batch of them, in our types."""
    return jnp.asarray(action, jnp.float32 if isinstance(env.action_space, Box) else jnp.int32)
