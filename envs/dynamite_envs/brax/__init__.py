"""Environments of brax as ours, and ours as brax's: `from_brax` and `BraxEnv`."""

from dynamite_envs.brax.from_brax import BraxDLCMDP, from_brax
from dynamite_envs.brax.to_brax import BraxEnv

__all__ = ["BraxDLCMDP", "BraxEnv", "from_brax"]
