"""DynaMITE-RL (Liang et al., 2024): a latent belief that knows about sessions."""

from dynamite_jax.beliefs.latent import LatentBelief
from dynamite_jax.config import Config

build = LatentBelief.build


def configure(config: Config) -> Config:
    """Nothing to change: the switches of `VAEConfig` are all on by default."""
    return config
