"""Name -> method. A method is one small file that says what differs; the training step is the same for all."""

from dynamite_jax.methods import contrabar, dynamite, markov, oracle, rl2, secbad, varibad

METHODS = {
    "dynamite": dynamite,
    "varibad": varibad,
    "secbad": secbad,
    "contrabar": contrabar,
    "rl2": rl2,
    "oracle": oracle,
    "markov": markov,
}
