"""The true context is observed, so that there is nothing to believe: the upper reference."""

from dynamite_jax.methods.method import Method

METHOD = Method(belief="dynamite_jax.beliefs.belief:Belief.build", observes_context=True)
