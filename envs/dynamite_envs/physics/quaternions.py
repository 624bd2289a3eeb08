"""Turning things by unit quaternions (w, x, y, z), in terms that compile fast in a long chain."""

import jax.numpy as jnp

from dynamite_envs.dlcmdp import Array


def multiply(a: Array, b: Array) -> Array:
    """Product of quaternions, [..., 4]."""
    (w, x, y, z), (p, q, r, s) = ([of[..., part] for part in range(4)] for of in (a, b))
    parts = w * p - x * q - y * r - z * s, w * q + x * p + y * s - z * r
    return jnp.stack([*parts, w * r - x * s + y * p + z * q, w * s + x * r - y * q + z * p], axis=-1)


def cross(a: Array, b: Array) -> Array:
    """Cross product, [..., 3]; `jnp.cross` takes the compiler minutes in a chain."""
    (x, y, z), (p, q, r) = ([of[..., part] for part in range(3)] for of in (a, b))
    return jnp.stack([y * r - z * q, z * p - x * r, x * q - y * p], axis=-1)


def rotate(quaternion: Array, vector: Array) -> Array:
    """Vectors [..., 3] turned by unit quaternions [..., 4]."""
    scalar, axis = quaternion[..., :1], quaternion[..., 1:]
    along = 2.0 * jnp.sum(axis * vector, axis=-1, keepdims=True) * axis
    return along + (2.0 * scalar**2 - 1.0) * vector + 2.0 * scalar * cross(axis, vector)


def matrix(quaternion: Array) -> Array:
    """Rotation matrices of unit quaternions, [..., 4] -> [..., 3, 3]."""
    return jnp.moveaxis(rotate(quaternion[..., None, :], jnp.eye(3)), -1, -2)
