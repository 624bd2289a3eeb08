"""The shapes that modules of pure functions name, checked at every call of the tests."""

from collections.abc import Callable

import jaxtyping
from beartype import beartype

MODULES = [
    "dynamite_jax.agents.running_statistics",
    "dynamite_jax.algorithms.ppo",
    "dynamite_jax.beliefs.elbo",
    "dynamite_jax.data.masked",
]


def check() -> None:
    """Check `MODULES`; to be called before they are imported."""
    jaxtyping.install_import_hook(MODULES, "shapes.checked")


def checked(function: Callable) -> Callable:
    """The function with arguments and result checked; not where it makes a pytree, which JAX may fill with anything."""
    return function if function.__name__ == "__init__" else beartype(function)
