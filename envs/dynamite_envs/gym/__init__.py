"""The environments for Gymnasium: `import dynamite_envs.gym`, then `gymnasium.make("dynamite/Gridworld-v0")`.

The import registers every environment of `registry.MAKERS`, and imports neither JAX nor MuJoCo; making one does.
Keyword arguments of `make` are those of `env.GymnasiumEnv`, of `make_vec` those of `vector.GymnasiumVectorEnv`, and the
environment's own options.
"""

import gymnasium

from dynamite_envs.registry import MAKERS

NAMESPACE = "dynamite"


def name(env: str) -> str:
    """The name of an environment of the registry in Gymnasium: `halfcheetah_vel` is dynamite/HalfCheetahVel-v0."""
    words = "".join(word.capitalize() for word in env.split("_"))
    return f"{NAMESPACE}/{words.replace('Halfcheetah', 'HalfCheetah')}-v0"


def register() -> None:
    """Register what is not yet registered; again after environments of one's own have been added to the registry."""
    for env in MAKERS:
        if name(env) not in gymnasium.registry:
            gymnasium.register(
                id=name(env),
                entry_point="dynamite_envs.gym.env:GymnasiumEnv",
                vector_entry_point="dynamite_envs.gym.vector:GymnasiumVectorEnv",
                kwargs={"env": env},
            )


register()
