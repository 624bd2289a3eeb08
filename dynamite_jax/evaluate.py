"""The program `python -m dynamite_jax.evaluate`, the same as `dynamite-jax eval`."""

from dynamite_jax.commands.evaluate import main

if __name__ != "__main__":  # as a module it would hide the function
    raise ImportError("dynamite_jax.evaluate is a program; the function is `from dynamite_jax import evaluate`")

main()
