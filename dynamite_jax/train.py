"""The program `python -m dynamite_jax.train`, the same as `dynamite-jax train`."""

from dynamite_jax.commands.train import main

if __name__ != "__main__":  # as a module it would hide the function
    raise ImportError("dynamite_jax.train is a program; the function is `from dynamite_jax import train`")

main()
