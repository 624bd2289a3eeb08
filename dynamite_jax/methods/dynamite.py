"""DynaMITE-RL (Liang et al., 2024): a latent belief that knows about sessions.

The switches of `VAEConfig` are all on by default.
"""

from dynamite_jax.methods.method import Method

METHOD = Method(
    belief="dynamite_jax.beliefs.latent:LatentBelief.build", encoders=("gru", "transformer"), through_encoder=True
)
