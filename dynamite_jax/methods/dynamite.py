"""DynaMITE-RL (Liang et al., 2024): a latent belief that knows about sessions.

The switches of `VAEConfig` are all on by default.
"""

from pkgutil import resolve_name
from typing import TYPE_CHECKING

from dynamite_jax.config import Config
from dynamite_jax.methods.method import Method

if TYPE_CHECKING:
    from dynamite_envs.dlcmdp import DLCMDP
    from dynamite_jax.beliefs.belief import Belief

BELIEFS = {
    "filtered": "dynamite_jax.beliefs.latent:LatentBelief.build",
    "session": "dynamite_jax.beliefs.smoothing:SmoothingBelief.build",
}


def belief(config: Config, env: "DLCMDP") -> "Belief":
    """The belief that learns by the posterior that the config names."""
    return resolve_name(BELIEFS[config.vae.posterior])(config, env)


METHOD = Method(
    belief="dynamite_jax.methods.dynamite:belief",
    encoders=("gru", "transformer"),
    posteriors=tuple(BELIEFS),
    through_encoder=True,
)
