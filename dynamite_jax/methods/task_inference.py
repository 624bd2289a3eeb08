"""Task inference (Humplik et al., 2019): a belief that is supervised by the true context in training. A reference.

It bounds what an encoder of its size can know of the context. When acting it sees what every other method sees.
"""

from dynamite_jax.methods.method import Method

METHOD = Method(belief="dynamite_jax.beliefs.supervised:build", through_encoder=True)
