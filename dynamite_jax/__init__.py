"""DynaMITE-RL as one compiled training step: beliefs over contexts that change during an episode."""

__version__ = "0.1.0"
__all__ = ["__version__", "setup"]


def setup(seeds: int | None = None) -> None:
    """Set JAX up as the commands do: devices, compilation cache, logs. Call it before anything touches a device.

    Importing changes no setting, and neither does training; see `runtime.devices.setup` for what this changes.

    Args:
        seeds: agents that will be trained side by side; by default there are as many CPU devices as cores.
    """
    from dynamite_jax.runtime import devices

    devices.setup(seeds)
