"""DynaMITE-RL as one compiled training step: beliefs over contexts that change during an episode."""

import os

# XLA's loader warns of tuning hints that are no processor features each time it reads its own cache.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__version__ = "0.1.0"
