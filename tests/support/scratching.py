"""Episodes of ScratchItch under three policies, and its model in C MuJoCo."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import mujoco as untyped
import numpy as np

from dynamite_envs import registry
from dynamite_envs.dlcmdp import State
from dynamite_envs.physics.backend import ASSETS
from dynamite_envs.scratch_itch.env import ScratchItch, people
from dynamite_envs.scratch_itch.reference import act

mujoco: Any = untyped
KEYS = jax.random.split(jax.random.key(0), 20_000)
EPISODES = 128


def make(**options: Any) -> ScratchItch:
    env = registry.make("scratch_itch", **options)
    assert isinstance(env, ScratchItch)
    return env


@jax.jit
def play(env: ScratchItch, key: jax.Array, random: jax.Array, scripted: jax.Array) -> tuple[State, jax.Array, State]:
    """States before, actions and states after each step, [H, N]: of random actions, or of the reference policy."""
    reset_key, key = jax.random.split(key)
    start = jax.vmap(env.reset)(jax.random.split(reset_key, EPISODES))

    def step(state: State, key: jax.Array) -> tuple[State, tuple[State, jax.Array, State]]:
        action = random * jax.random.uniform(key, (EPISODES, 7), minval=-1.0, maxval=1.0)
        action = jnp.where(scripted, jax.vmap(lambda state: act(env, state))(state), action)
        after = jax.vmap(env.step)(state, action)
        return after, (state, action, after)

    return jax.lax.scan(step, start, jax.random.split(key, env.horizon))[1]


@functools.cache
def played(policy: str, impl: str = "auto") -> tuple[State, np.ndarray, State]:
    result = play(make(impl=impl), jax.random.key(1), jnp.float32(policy == "random"), jnp.array(policy == "scripted"))
    before, action, after = (
        jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x), part)
        for part in result
    )
    return before, action, after


def arm(female: bool = False) -> tuple[Any, Any]:
    """The model in C, before a man or a woman, its solver given more iterations than ours."""
    model = mujoco.MjModel.from_xml_path(str(ASSETS / "scratch_itch.xml"))
    for name, values in people().items():
        getattr(model, name)[:] = values[int(female)]
    model.opt.iterations, model.opt.ls_iterations = 100, 50
    return model, mujoco.MjData(model)
