"""`python -m dynamite_jax COMMAND`, the same as `dynamite-jax COMMAND`."""

from dynamite_jax.cli import main

main()
