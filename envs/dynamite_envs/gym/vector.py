"""Many environments of a kind behind Gymnasium's interface for vectors, stepped by one compiled program."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from dynamite_envs import pictures, registry
from dynamite_envs.dlcmdp import DLCMDP, State
from dynamite_envs.gym import env as single

Array = jax.Array


class GymnasiumVectorEnv(gymnasium.vector.VectorEnv[np.ndarray, Any, np.ndarray]):
    """N environments, each with the episodes that a `GymnasiumEnv` of its seed would have.

    With `autoreset_mode` NEXT_STEP the step after the end of an episode begins the next one, whatever the action is;
    with SAME_STEP the step that ends it does, and `info` holds `final_obs` and `final_info`; with DISABLED
    `reset(options={"reset_mask": mask})` does.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        env: str | DLCMDP,
        num_envs: int = 1,
        labels: bool = False,
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        *,
        feedback: bool = False,
        **options: Any,
    ):
        """Environments that are not yet reset.

        Args:
            env: name in the registry, or an environment.
            num_envs: N.
            labels: as in `GymnasiumEnv`; arrays of N.
            render_mode: None or `rgb_array`.
            autoreset_mode: when a new episode begins.
            feedback: as in `GymnasiumEnv`.
            **options: of the environment of that name.

        Raises:
            UserError: an unknown name or option, a value that can't be one, or options of an environment that is made.
        """
        if render_mode is not None:
            pictures.without_display()
        self.env = registry.resolve(env, feedback=feedback, **options)
        self.num_envs = num_envs
        self.single_observation_space = single.observation_space(self.env)
        self.single_action_space = single.action_space(self.env)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        frame_rate = pictures.frame_rate(self.env)
        self.metadata = self.metadata | {"autoreset_mode": self.autoreset_mode, "render_fps": frame_rate}
        self.render_mode = render_mode
        self._labels = labels
        self._streams: list[Any] = [None] * num_envs
        self._seeds: list[int | None] = [None] * num_envs
        self._state: Any = None
        self._over = np.zeros(num_envs, bool)
        self._scene: pictures.Scene | None = None

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The stream of each environment."""
        for number, stream in enumerate(self._streams):
            if stream is None:
                self._streams[number], self._seeds[number] = seeding.np_random()
        return tuple(self._streams)

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The seed of each environment's stream."""
        _ = self.np_random
        return tuple(self._seeds)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes.

        Args:
            seed: of the first environment, the next have the next ones; or one for each; None goes on with the streams.
            options: `reset_mask`, [N], begins the episodes of some environments only.

        Raises:
            ValueError: seeds are not N, or the mask is no array of N truth values.
        """
        seeds = [seed + number for number in range(self.num_envs)] if isinstance(seed, int) else seed
        seeds = [None] * self.num_envs if seeds is None else seeds
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed has {len(seeds)} numbers; it must be one, or {self.num_envs}")
        mask = (
            np.ones(self.num_envs, bool) if options is None else options.get("reset_mask", np.ones(self.num_envs, bool))
        )
        if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != (self.num_envs,):
            raise ValueError(f"options: reset_mask is {mask!r}; it must be an array of {self.num_envs} truth values")
        if self._state is None and not mask.all():
            raise gymnasium.error.ResetNeeded("no episode has begun: call reset() without reset_mask first")
        for number, seed_of_one in enumerate(seeds):
            if mask[number] and seed_of_one is not None:
                self._streams[number], self._seeds[number] = seeding.np_random(seed_of_one)
        shown = self._begin(mask)
        self._over &= ~mask
        return np.array(shown["observation"]), self._infos(shown, mask)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Make one step in every environment.

        Raises:
            ResetNeeded: no episode has begun; or one is over and `autoreset_mode` is DISABLED.
        """
        if self._state is None or (self.autoreset_mode == AutoresetMode.DISABLED and self._over.any()):
            raise gymnasium.error.ResetNeeded("an episode is over or has not begun: call reset() before step()")
        self._state, shown = _step(self.env, self._state, actions)
        if self.autoreset_mode == AutoresetMode.NEXT_STEP and self._over.any():
            shown = self._begin(self._over)
        shown = jax.device_get(shown)
        terminated, truncated = np.array(shown["terminated"]), np.array(shown["truncated"])
        reward = np.array(shown["reward"], np.float64)
        self._over = terminated | truncated
        infos: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._over.any():
            infos = self._final(shown)
            shown = jax.device_get(self._begin(self._over))
            self._over = np.zeros(self.num_envs, bool)
        infos |= self._infos(shown, np.ones(self.num_envs, bool))
        return np.array(shown["observation"]), reward, terminated, truncated, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """A picture of each environment, as `GymnasiumEnv.render`."""
        if self.render_mode is None:
            return None
        if self._state is None:
            raise gymnasium.error.ResetNeeded("no episode has begun: call reset() before render()")
        if self._scene is None:
            self._scene = pictures.scene(self.env)
        states = jax.device_get(jax.tree.map(_drawable, self._state))
        one_by_one = (jax.tree.map(lambda x, n=n: x[n], states) for n in range(self.num_envs))
        return tuple(self._scene.draw(state) for state in one_by_one)

    def close_extras(self, **kwargs: Any) -> None:
        """Free the renderer."""
        if self._scene is not None:
            self._scene.close()
            self._scene = None

    def _begin(self, mask: np.ndarray) -> dict[str, Any]:
        """Begin the episodes of some environments, each by the next words of its stream; what is shown of all."""
        words = np.zeros((self.num_envs, 2), np.uint32)
        streams = self.np_random
        for number in np.flatnonzero(mask):
            words[number] = single.words(streams[number])
        self._state, shown = _begin(self.env, self._state, mask, words)
        return shown

    def _final(self, shown: dict[str, Any]) -> dict[str, Any]:
        """Observations and labels that episodes have ended with."""
        infos: dict[str, Any] = {}
        for number in np.flatnonzero(self._over):
            info: dict[str, Any] = jax.tree.map(lambda x, n=number: np.array(x[n]), self._labelled(shown))
            info |= {name: info[name].item() for name in ("session", "switched") if name in info}
            final = {"final_obs": np.array(shown["observation"][number]), "final_info": info}
            infos = self._add_info(infos, final, int(number))
        return infos

    def _infos(self, shown: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
        """Labels, and beside each the environments that have it."""
        return _masked(self._labelled(shown), mask)

    def _labelled(self, shown: dict[str, Any]) -> dict[str, Any]:
        if not self._labels:
            return {}
        types = {"context": np.float32, "session": np.int64, "switched": bool}
        labels: dict[str, Any] = {name: np.array(shown[name], kind) for name, kind in types.items()}
        return labels | {"latent": jax.tree.map(np.array, shown["latent"])}


def _masked(values: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """Values under a mask, [N, ...], and beside each, `_` before its name, the mask, as Gymnasium's vectors have it."""
    infos = {}
    for name, value in values.items():
        if isinstance(value, dict):
            infos[name] = _masked(value, mask)
        else:
            infos[name] = np.where(mask.reshape(-1, *[1] * (value.ndim - 1)), value, np.zeros_like(value))
        infos[f"_{name}"] = mask.copy()
    return infos


def _drawable(x: Array) -> Array:
    """Random keys are no arrays of NumPy's."""
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


@jax.jit
def _begin(env: DLCMDP, state: State | None, mask: Array, words: Array) -> tuple[State, dict[str, Any]]:
    """States of which those under the mask begin, [N, ...], and what is shown of them."""
    fresh = jax.vmap(lambda words: single.start(env, words))(words)
    if state is not None:

        def begun(new: Array, old: Array) -> Array:
            return jnp.where(mask.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        fresh = jax.tree.map(begun, fresh, state)
    return fresh, jax.vmap(lambda state: single.show(env, state))(fresh)


@jax.jit
def _step(env: DLCMDP, state: State, actions: Any) -> tuple[State, dict[str, Any]]:
    """States after actions, [N, ...], and what is shown of them."""
    state = jax.vmap(env.step)(state, single.to_ours(env, actions))
    return state, jax.vmap(lambda state: single.show(env, state))(state)
