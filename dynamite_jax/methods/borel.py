"""BOReL (Dorfman et al., 2021): VariBAD's belief, learnt from recorded episodes alone.

Its states are those of the belief, and its rewards relabelled, by `offline.relabel`, which other methods have as well.
"""

import dataclasses

from dynamite_jax.methods import varibad

METHOD = dataclasses.replace(varibad.METHOD, settings=("offline",), through_encoder=False)
