"""DynaMITE-RL as one compiled training step: beliefs over contexts that change during an episode."""

__version__ = "0.1.0"
