"""C MuJoCo as a function of arrays: rows of states and controls in, rows of later states out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mujoco as untyped
import numpy as np
from mujoco.batch import Batch

from dynamite_envs.physics.floating import default_mode

mujoco: Any = untyped
VERSIONS = ("3.17.0",)  # of MuJoCo, whose batches and sensors of contacts this was tested with
CHANGEABLE = ("geom_pos", "geom_quat", "geom_size")  # in variants of a model
MOST = 1e10  # MuJoCo takes states and accelerations beyond it for broken; it would go on from the model's first state
POSE = ("xpos", "xquat", "xanchor", "xaxis")  # of bodies and joints
CONTACT = 7  # numbers of a contact: force in its frame, whose first axis is the normal; distance; place


@dataclass(frozen=True)
class Layout:
    """Where the numbers of a model stand in a row.

    Attributes:
        state: positions, velocities and warm start, which come first in arguments and results.
        inputs: with controls and applied forces; then, where the model has variants, comes the index of one.
        details: numbers of results that follow the state: a `CONTACT` for each pair of geoms, then every `POSE`.
    """

    state: int
    inputs: int
    details: int

    @property
    def result(self) -> int:
        """Numbers of a result."""
        return self.state + self.details


class Stepper:
    """Makes steps of one model, a batch of environments a call; threads may call it at once.

    Batches of MuJoCo are made as they are needed, one for each size and caller at a time, and kept.

    Attributes:
        model: with a sensor for each contact that is asked for.
        layout: of rows.
        variants: numbers of each variant of the model.
        substeps: of each call.
        threads: that share a call's rows.
    """

    def __init__(
        self, file: str, substeps: int, *, variants: Mapping[str, np.ndarray] | None = None, details: bool = False
    ):
        """Load a model.

        Args:
            file: of the model.
            substeps: steps in each call.
            variants: `geom_pos`, `geom_quat` or `geom_size` of each variant of the model, [V, ngeom, ...]; none for the
                model as it is.
            details: whether results hold contacts, as the last step began, and the pose of bodies after it.
        """
        spec = mujoco.MjSpec.from_file(file)
        pairs = list(spec.pairs) if details else []
        for pair in pairs:
            _add_contact_sensor(spec, pair)
        self.model = model = spec.compile()
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET  # a broken state stays broken
        if model.na or model.nhistory or model.nsensordata != CONTACT * len(pairs):
            raise ValueError(f"{file} has activations, delays or sensors, which rows have no place for")
        if not np.allclose(_radii(model, model.geom_size), model.geom_rbound):
            raise ValueError(f"{file} has geoms whose bounding spheres are not known from their sizes")
        state = model.nq + 2 * model.nv
        self.variants = dict(variants or {})
        if unknown := self.variants.keys() - set(CHANGEABLE):
            raise ValueError(f"variants have {', '.join(sorted(unknown))}; they may have {', '.join(CHANGEABLE)}")
        if "geom_size" in self.variants:
            self.variants["geom_rbound"] = _radii(model, self.variants["geom_size"])
        pose = 7 * model.nbody + 6 * model.njnt
        self.layout = Layout(state, state + model.nu + model.nv, CONTACT * len(pairs) + pose if details else 0)
        self.substeps = substeps
        self.threads = 1
        default_mode()  # fails here, and not in a program, where it can't be had
        self._free: dict[tuple[int, int], list[_Rows]] = {}

    def __call__(self, argument: np.ndarray, result: np.ndarray) -> None:
        """Fill `result`, [n, layout.result], from `argument`, [n, layout.inputs, and an index of variants].

        Rows that hold what is not finite, or come to it, are NaN in the result; other rows do not feel them.
        """
        key = len(argument), min(self.threads, len(argument))
        free = self._free.setdefault(key, [])  # these are atomic: two callers never get the same
        try:
            rows = free.pop()
        except IndexError:
            rows = _Rows(self, *key)
        rows.step(argument, result)
        free.append(rows)


class _Rows:
    """One batch of MuJoCo, of one caller at a time."""

    def __init__(self, stepper: Stepper, size: int, threads: int):
        self.layout, self.substeps = stepper.layout, stepper.substeps
        self.mode = default_mode()
        with self.mode:  # which the batch's threads inherit
            self.batch = batch = Batch(stepper.model, size, threads)
        state = mujoco.mjtState
        parts = (state.mjSTATE_QPOS, state.mjSTATE_QVEL, state.mjSTATE_WARMSTART)
        parts += (state.mjSTATE_CTRL, state.mjSTATE_QFRC_APPLIED)  # in a row of MuJoCo these follow each other
        assert self.layout.inputs == sum(mujoco.mj_stateSize(stepper.model, part) for part in parts)
        start = mujoco.mj_stateSize(stepper.model, state.mjSTATE_TIME)
        self.inputs = batch.state[:, start : start + self.layout.inputs]
        self.state = self.inputs[:, : self.layout.state]
        self.variants = [(batch.expand(name), values) for name, values in stepper.variants.items()]
        self.last_variants = b""
        self.details = []
        if self.layout.details:
            self.details = [batch.bind(name).reshape(size, -1) for name in ("sensordata", *POSE)]
        stages = mujoco.mjtStage
        self.stage = int(stages.mjSTAGE_POS if self.details else stages.mjSTAGE_NONE)
        batch.warning[:, :, 1] = 1  # it speaks when it counts the first one
        self.no_warning = batch.warning.tobytes()

    def step(self, argument: np.ndarray, result: np.ndarray) -> None:
        """See `Stepper`."""
        layout = self.layout
        with self.mode, np.errstate(over="ignore", invalid="ignore"):
            self.inputs[:] = argument[:, : layout.inputs]
            if self.variants:
                self._choose(argument[:, layout.inputs])
            sound = _sound(argument)
            self.batch.step(None if sound is None else np.flatnonzero(sound), nstep=self.substeps, stage=self.stage)
            result[:, : layout.state] = self.state
            first = layout.state
            for values in self.details:
                result[:, first : first + values.shape[1]] = values
                first += values.shape[1]
            if self.batch.warning.tobytes() != self.no_warning:
                result[(self.batch.warning[:, :, 1] != 1).any(axis=1)] = np.nan
                self.batch.warning[:] = np.frombuffer(self.no_warning, np.int32).reshape(self.batch.warning.shape)
            if sound is not None:
                result[~sound] = np.nan
            if (sound := _sound(result)) is not None:
                result[~sound] = np.nan

    def _choose(self, variants: np.ndarray) -> None:
        """Give every row the numbers of its variant, where they are not those of the last call."""
        if (last := variants.tobytes()) == self.last_variants:
            return
        self.last_variants = last
        for rows, values in self.variants:
            rows[:] = values[np.clip(np.nan_to_num(variants), 0, len(values) - 1).astype(int)]


def _sound(rows: np.ndarray) -> np.ndarray | None:
    """Which rows hold nothing but numbers that MuJoCo takes for good, [n]; None where all do."""
    numbers = rows.reshape(-1)
    if np.dot(numbers, numbers) <= MOST:  # a bound of all that is cheap to have; NaN is beyond it
        return None
    size = np.abs(rows)
    return None if size.max() <= MOST else np.all(size <= MOST, axis=1)


def _add_contact_sensor(spec: Any, pair: Any) -> None:
    """A sensor of what a pair of geoms exerts on each other: what `CONTACT` counts."""
    kind, field = mujoco.mjtObj.mjOBJ_GEOM, mujoco.mjtConDataField
    sensor = spec.add_sensor(
        name=f"contact of {pair.geomname1} and {pair.geomname2}",
        type=mujoco.mjtSensor.mjSENS_CONTACT,
        objtype=kind,
        objname=pair.geomname1,
        reftype=kind,
        refname=pair.geomname2,
    )
    measured = (field.mjCONDATA_FORCE, field.mjCONDATA_DIST, field.mjCONDATA_POS)
    sensor.intprm[:3] = sum(1 << int(part) for part in measured), 0, 1


def _radii(model: Any, size: np.ndarray) -> np.ndarray:
    """Radius of the sphere around each geom by which collisions are sorted out, m, [..., ngeom] of [..., ngeom, 3]."""
    kind, geom = model.geom_type, mujoco.mjtGeom
    cases = {
        geom.mjGEOM_PLANE: 0.0 * size[..., 0],
        geom.mjGEOM_SPHERE: size[..., 0],
        geom.mjGEOM_CAPSULE: size[..., 0] + size[..., 1],
        geom.mjGEOM_CYLINDER: np.hypot(size[..., 0], size[..., 1]),
        geom.mjGEOM_BOX: np.linalg.norm(size, axis=-1),
    }
    return np.select([kind == case for case in cases], list(cases.values()), np.nan)
