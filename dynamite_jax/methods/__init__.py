"""Name -> method. A method is one small file that says what differs; the training step is the same for all."""

from dynamite_jax.methods import dynamite, markov, oracle, varibad

METHODS = {"dynamite": dynamite, "varibad": varibad, "oracle": oracle, "markov": markov}
