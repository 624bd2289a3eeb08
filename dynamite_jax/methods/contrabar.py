"""ContraBAR (Choshen and Tamar, 2023): a belief by contrastive predictive coding."""

import dataclasses

from dynamite_jax.config import Config
from dynamite_jax.methods.method import Method

ANCHORS = 8  # steps of an episode whose future is predicted in one pass


def configure(config: Config) -> Config:
    """A few anchors of each episode instead of all steps."""
    return dataclasses.replace(config, vae=config.vae.replace(elbo_terms=ANCHORS))


METHOD = Method(
    belief="dynamite_jax.beliefs.contrastive:ContrastiveBelief.build", configure=configure, through_encoder=True
)
