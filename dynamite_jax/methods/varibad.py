"""VariBAD (Zintgraf et al., 2020): the latent belief of one static context.

One session mask over the episode, a chain of KL terms that starts from a standard normal, and nothing of
what knows about sessions.
"""

import dataclasses

from dynamite_jax.config import Config
from dynamite_jax.methods.method import Method


def configure(config: Config) -> Config:
    """Switch the session-aware parts off."""
    vae = config.vae.replace(
        session_mask=False,
        conditioning=False,
        consistency=False,
        boundary_head=False,
        kl_target="previous_belief",
    )
    return dataclasses.replace(config, vae=vae)


METHOD = Method(
    belief="dynamite_jax.beliefs.latent:LatentBelief.build",
    configure=configure,
    encoders=("gru", "transformer"),
    through_encoder=True,
)
