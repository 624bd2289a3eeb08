"""DynaMITE-RL as one compiled training step: beliefs over contexts that change during an episode."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamite_jax.api import (
        Evaluation,
        Policy,
        Run,
        evaluate,
        load_policy,
        load_run,
        make_env,
        preset,
        register_env,
        register_method,
        train,
    )

__version__ = "0.1.0"
__all__ = [
    "Evaluation",
    "Policy",
    "Run",
    "evaluate",
    "load_policy",
    "load_run",
    "make_env",
    "preset",
    "register_env",
    "register_method",
    "setup",
    "train",
]


def setup(seeds: int | None = None) -> None:
    """Set JAX up as the commands do: devices, compilation cache, logs. Call it before anything touches a device.

    Importing changes no setting, and neither does training; see `runtime.devices.setup` for what this changes.

    Args:
        seeds: agents that will be trained side by side; by default there are as many CPU devices as cores.
    """
    from dynamite_jax.runtime import devices

    devices.setup(seeds)


def __getattr__(name: str) -> Any:
    """The other public names, which bring JAX along when they are asked for."""
    if name in __all__:
        from dynamite_jax import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
