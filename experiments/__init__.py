"""Commands that compare, search, measure and draw."""

import dynamite_jax  # noqa: F401  before JAX: it sets what JAX reads when imported
