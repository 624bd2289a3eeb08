"""Name -> method. A method is one small file that says what differs; the training step is the same for all."""

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_envs.wrappers import ObserveContext
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


def environment(method: str, env: DLCMDP) -> DLCMDP:
    """The environment that agents of a method act in: with its context shown where the method `OBSERVES_CONTEXT`."""
    return ObserveContext.of(env) if getattr(METHODS[method], "OBSERVES_CONTEXT", False) else env
