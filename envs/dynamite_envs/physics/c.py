"""Physics by MuJoCo's own engine, in C, called from inside compiled programs on the CPU."""

import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamite_envs.errors import UserError
from dynamite_envs.machine import cores
from dynamite_envs.physics import ffi
from dynamite_envs.physics.backend import Contact, M, Motion, Pose, Simulator, Variants

Array = jax.Array

OPERATION = "dynamite_mujoco_steps"

_steppers: dict[bytes, Any] = {}  # by key; programs name them, also those that come from the compilation cache


class C:
    """A `Backend` for CPUs: three times MJX's speed, and compiled in no time. It has no gradient."""

    impl = "c"

    def __init__(self, simulator: Simulator):
        """Nothing is loaded yet."""
        self.simulator = simulator

    @staticmethod
    def check_machine() -> None:
        """Refuse a machine whose devices are no CPUs, or on which the engine can't be called.

        Raises:
            UserError: says why.
        """
        if reason := _unusable():
            raise UserError(f"impl is 'c'; {reason}")

    def advance(self, motion: M, control: Array, applied: Array) -> M:
        """Make all substeps under one control."""
        loaded = _load(self.simulator, variants={}, details=False)
        return self._advance(loaded, motion, (control, applied))[0]

    def advance_chain(
        self, motion: M, control: Array, applied: Array, *, variants: Variants, variant: Array
    ) -> tuple[M, Contact, Pose]:
        """Make all substeps of a variant of a chain, see `Simulator.advance_chain`."""
        loaded = _load(self.simulator, variants=variants, details=True)
        motion, numbers = self._advance(loaded, motion, (control, applied, variant))
        model = self.simulator.model
        sizes = (7 * model.npair, 3 * model.nbody, 4 * model.nbody, 3 * model.njnt, 3 * model.njnt)
        contact, *pose = jnp.split(numbers, np.cumsum(sizes)[:-1])
        contact = contact.reshape(-1, 7)  # force in the contact's frame, distance, place
        touches = Contact(contact[:, 3] < 0.0, contact[:, 0], contact[:, 4:])
        return motion, touches, Pose(*(x.reshape(-1, width) for x, width in zip(pose, (3, 4, 3, 3), strict=True)))

    def _advance(self, loaded: tuple[str, int], motion: M, inputs: tuple[Array, ...]) -> tuple[M, Array]:
        """Later motion, and the numbers of its details."""
        (key, size), model = loaded, self.simulator.model
        parts = (motion.qpos, motion.qvel, motion.warmstart, *inputs)
        row = jnp.concatenate([jnp.ravel(jnp.asarray(part, motion.qpos.dtype)) for part in parts])
        ends = np.cumsum([model.nq, model.nv, model.nv])
        qpos, qvel, warmstart, numbers = jnp.split(_steps(key, size, row), ends)
        return motion.replace(qpos=qpos, qvel=qvel, warmstart=warmstart), numbers


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _steps(key: str, size: int, row: Array) -> Array:
    return ffi.call(OPERATION, key, row, size)


@_steps.defjvp
def _refuse_gradient(key: str, size: int, primals: Any, tangents: Any) -> Any:
    raise TypeError("physics by C MuJoCo has no gradient; impl 'jax' has")


def _load(simulator: Simulator, *, variants: Variants, details: bool) -> tuple[str, int]:
    """Make a model's steps ready; the key that names them in compiled programs, and the numbers of their result.

    The key depends on what is computed alone, so that a later process finds the program in the compilation cache.
    """
    from dynamite_envs.physics.mujoco_batch import Stepper

    ffi.register(OPERATION, _step_rows)
    digest = hashlib.blake2b(f"{simulator.substeps} {details}".encode() + simulator.file.read_bytes(), digest_size=8)
    for name, values in sorted(variants.items()):
        digest.update(f"{name} {values.shape}".encode() + np.asarray(values, np.float64).tobytes())
    key = f"{simulator.asset}-{digest.hexdigest()}"
    stepper = _steppers.get(key.encode())
    if stepper is None:
        stepper = Stepper(str(simulator.file), simulator.substeps, variants=variants, details=details)
        _steppers[key.encode()] = stepper
    stepper.threads = max(1, cores() // jax.local_device_count())  # one device uses all cores, one each a single one
    return key, stepper.layout.result


def _step_rows(key: bytes, argument: np.ndarray, result: np.ndarray) -> None:
    """What compiled programs call."""
    _steppers[key](argument, result)


def _unusable() -> str | None:
    """Why the engine can't be used here, None where it can."""
    if jax.default_backend() != "cpu":
        return f"it runs on CPUs, and JAX runs on {jax.default_backend()}"
    return _unusable_on_cpu()


@functools.cache
def _unusable_on_cpu() -> str | None:
    """The same, tried once."""
    import mujoco

    try:
        from dynamite_envs.physics.mujoco_batch import VERSIONS

        if mujoco.__version__ not in VERSIONS:
            return f"it needs MuJoCo {' or '.join(VERSIONS)}, and {mujoco.__version__} is installed"
        return None if _steps_as_mujoco() else "its first step here is not MuJoCo's"
    except (ImportError, OSError, AttributeError, ffi.Unsupported) as error:
        return f"it can't be called here: {error}"


def _steps_as_mujoco() -> bool:
    """Whether a compiled program moves a known model to where MuJoCo moves it, to the bit."""
    import mujoco as untyped

    mujoco: Any = untyped
    simulator = Simulator("reacher", substeps=2)
    data = mujoco.MjData(simulator.model)
    data.qpos[:], data.qvel[:], data.ctrl[:] = (0.5, -1.0), (2.0, -3.0), (0.25, -0.5)
    start = Motion(*(jnp.asarray(x, jnp.float32) for x in (data.qpos, data.qvel, data.qacc_warmstart)))
    control = jnp.asarray(data.ctrl, jnp.float32)
    for _ in range(simulator.substeps):
        mujoco.mj_step(simulator.model, data)
    with jax.ensure_compile_time_eval():
        after = jax.jit(C(simulator).advance)(start, control, jnp.zeros(2))
    expected = (data.qpos, data.qvel, data.qacc_warmstart)
    return all(np.array_equal(x, np.float32(y)) for x, y in zip(jax.tree.leaves(after), expected, strict=True))
