"""Environments of gymnax as DLCMDPs, and DLCMDPs as environments of gymnax, which has to be installed."""

from dynamite_envs.gymnax.from_gymnax import from_gymnax
from dynamite_envs.gymnax.to_gymnax import GymnaxEnv

__all__ = ["GymnaxEnv", "from_gymnax"]
