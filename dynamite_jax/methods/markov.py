"""No memory: the policy gets the observation alone. The lower reference."""

from dynamite_jax.methods.method import Method

METHOD = Method(belief="dynamite_jax.beliefs.belief:Belief.build")
