"""SeCBAD (Chen et al., 2022): a latent for each possible start of the segment, and a Bayes filter over starts."""

import dataclasses

from dynamite_jax.config import Config
from dynamite_jax.methods.method import Method


def configure(config: Config) -> Config:
    """The networks know nothing of sessions: the filter does."""
    vae = config.vae.replace(conditioning=False, consistency=False, boundary_head=False)
    return dataclasses.replace(config, vae=vae)


METHOD = Method(belief="dynamite_jax.beliefs.segments:SegmentBelief.build", configure=configure)
