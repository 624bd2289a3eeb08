"""A robot arm scratches a person's itch; where it itches is the context, and only the person knows.

The task is ScratchItch of Assistive Gym (Erickson et al., 2020; MIT licence) with its robot, its person and its reward,
built anew from published numbers. An itch that moves during an episode, and that is not observed, is what this adds.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from flax import struct

from dynamite_envs.dlcmdp import Array, check_flag, check_not_negative, check_probability
from dynamite_envs.errors import UserError
from dynamite_envs.physics.backend import Contact, Motion, MuJoCoDLCMDP, Pose, Simulator
from dynamite_envs.physics.quaternions import cross, multiply, rotate
from dynamite_envs.scratch_itch import poses as scratch_itch_poses
from dynamite_envs.spaces import Box

ROBOT = Simulator("scratch_itch", substeps=5, chain=True)
LIMBS = ("upper_arm", "forearm")
START = np.array([-0.505, 0.0, 0.8])  # mean place of the tip when an episode starts, m

# Of a male and a female person, in m. Limbs are capsules; the forearm's ends before the wrist.
SHOULDER = np.array([[-0.179, 0.03, 1.0315], [-0.159, 0.03, 0.992]])
ELBOW = np.array([[-0.3185, 0.03, 0.7899], [-0.291, 0.03, 0.7634]])
WRIST = np.array([[-0.3185, -0.26, 0.7899], [-0.291, -0.231, 0.7634]])
LENGTH = np.array([[0.279, 0.257], [0.264, 0.234]])  # of upper arm and forearm, without their half spheres
RADIUS = np.array([[0.043, 0.033], [0.0355, 0.027]])
HAND = np.array([0.043, 0.0355])

REACH = 0.25  # how far in front of a joint its target goes at most, rad

NEAR = 0.025  # contact as near as this is on the itch, m
MOVED = 0.01  # and scratches once it is farther than this from the last scratch, m
HARD = 10.0  # with less force than this, N
SUCCESS = 25  # scratches in an episode


class Itch(struct.PyTreeNode):
    """The context: a place on the side of a limb that faces where the tip starts.

    Attributes:
        limb: 0 on the upper arm, 1 on the forearm.
        along: from 0 at one radius below the upper joint to 1 at the limb's `LENGTH`.
        angle: around the limb, from -pi / 2 to pi / 2; 0 faces where the tip starts.
    """

    limb: Array
    along: Array
    angle: Array


class Scratching(Motion):
    """The arm, the person, and what has been done to them.

    `last` and `scratches` depend on the itches there were; they are not observed and move nothing.

    Attributes:
        female: 1 where the person is a woman, 0 where it is a man.
        tip: of the tool, m, [3].
        orientation: of the tool, a quaternion, [4].
        force: of the tip on the limbs, N.
        last: where the last scratch was, m, [3].
        scratches: so far.
    """

    female: Array
    tip: Array
    orientation: Array
    force: Array
    last: Array
    scratches: Array


class ScratchItch(MuJoCoDLCMDP):
    """Reward is what scratches pay, less distance from the itch and what the person minds.

    Attributes:
        other: probability that a switch moves the itch to the other limb; the place on the limb is drawn anew.
        iid: 1 where a switch draws as the first itch is drawn, whatever came before.
        female: probability that the person is a woman.
        scratch_reward: for each scratch.
        distance_cost: for each m between tip and itch.
        action_cost: for the length of the action.
        velocity_cost: for each m/s of the end effector.
        elsewhere_cost: for each N of force that is not on the itch.
        hard_cost: for each N of force on the itch, where it is `HARD` or more.
    """

    other: Array | float = 0.8
    iid: Array | float = 0.0
    female: Array | float = 0.5
    scratch_reward: Array | float = 5.0
    distance_cost: Array | float = 1.0
    action_cost: Array | float = 0.01
    velocity_cost: Array | float = 0.25
    elsewhere_cost: Array | float = 0.01
    hard_cost: Array | float = 0.05

    @property
    def observation_size(self) -> int:
        """Tip (3), orientation of the tool (4), joints (7), shoulder, elbow and wrist (9), force (1)."""
        return 24

    @property
    def action_space(self) -> Box:
        """Where each joint shall go, as a fraction of `REACH`."""
        return Box(7)

    def init_physics(self, key: Array) -> Scratching:
        """At rest in one of the stored poses, before a man or a woman."""
        pose_key, person_key = jax.random.split(key)
        bank = jnp.asarray(scratch_itch_poses.load(), jnp.float32)
        qpos = bank[jax.random.randint(pose_key, (), 0, len(bank))]
        tip, orientation = tool(self.simulator.pose(qpos))
        return Scratching(
            qpos=qpos,
            qvel=jnp.zeros(7),
            warmstart=jnp.zeros(7),
            female=jax.random.bernoulli(person_key, self.female).astype(jnp.float32),
            tip=tip,
            orientation=orientation,
            force=jnp.zeros(()),
            last=jnp.zeros(3),
            scratches=jnp.zeros((), jnp.int32),
        )

    def init_context(self, key: Array) -> Itch:
        """Either limb, any place."""
        limb_key, along_key, angle_key = jax.random.split(key, 3)
        return Itch(
            limb=jax.random.bernoulli(limb_key).astype(jnp.float32),
            along=jax.random.uniform(along_key),
            angle=jax.random.uniform(angle_key, minval=-jnp.pi / 2, maxval=jnp.pi / 2),
        )

    def next_context(self, key: Array, context: Itch) -> Itch:
        """Mostly the other limb, any place; or as `init_context`."""
        fresh_key, other_key = jax.random.split(key)
        fresh = self.init_context(fresh_key)
        moves = jax.random.bernoulli(other_key, self.other)
        limb = jnp.where(moves, 1.0 - context.limb, context.limb)
        return fresh.replace(limb=jnp.where(self.iid > 0, fresh.limb, limb))

    def dynamics(
        self, physics: Scratching, context: Itch, action: Array, key: Array
    ) -> tuple[Scratching, Array, Array]:
        """0.1 s towards the joints' targets; the reward by contacts as its last 0.02 s began, all else by its end."""
        low, high = self.simulator.joint_limits
        target = jnp.clip(physics.qpos + REACH * action, low, high)
        after, contact, pose = self.simulator.advance_chain(
            physics, control=target, applied=jnp.zeros(7), variants=people(), variant=physics.female
        )
        tip, orientation = tool(pose)
        velocity = jnp.sum(after.qvel[:, None] * jacobian(pose, pose.position[-1]), axis=0)
        itch, _, _ = itch_frame(physics.female, context)
        on_itch, scratched, last = scratch(contact, itch, physics.last)
        after = after.replace(
            tip=tip,
            orientation=orientation,
            force=jnp.sum(contact.force),
            last=last,
            scratches=physics.scratches + scratched,
        )
        reward = (
            self.scratch_reward * scratched
            - self.distance_cost * jnp.linalg.norm(itch - tip)
            - self.action_cost * jnp.linalg.norm(action)
            - self.velocity_cost * jnp.linalg.norm(velocity)
            - self.elsewhere_cost * (after.force - on_itch)
            - self.hard_cost * jnp.where(on_itch >= HARD, on_itch, 0.0)
        )
        return after, reward, jnp.zeros((), bool)

    def observe(self, physics: Scratching) -> Array:
        """In the frame of the robot's base; angles of joints from the mean start, with no cut in their range."""
        base = self.simulator.model.body("base")
        back = jnp.asarray(base.quat * np.array([1, -1, -1, -1]), jnp.float32)
        joints = jnp.asarray(np.stack([SHOULDER, ELBOW, WRIST], axis=1), jnp.float32)[physics.female.astype(int)]
        places = rotate(back, jnp.concatenate([physics.tip[None], joints]) - jnp.asarray(base.pos, jnp.float32))
        angles = physics.qpos - jnp.asarray(scratch_itch_poses.load().mean(0), jnp.float32)
        orientation = multiply(back, physics.orientation)
        return jnp.concatenate([places[0], orientation, angles, places[1:].ravel(), physics.force[None]])

    def context_features(self, context: Itch) -> Array:
        """Limb, along, and the angle as cosine and sine, [4]."""
        return jnp.stack([context.limb, context.along, jnp.cos(context.angle), jnp.sin(context.angle)])

    def outcomes(self, physics: Scratching) -> dict[str, Array]:
        """Scratches, and whether they are `SUCCESS` or more."""
        return {"scratches": physics.scratches, "success": physics.scratches >= SUCCESS}


def tool(pose: Pose) -> tuple[Array, Array]:
    """Place of the tip in m, [3], and orientation of the tool, [4]."""
    tip = jnp.asarray(ROBOT.model.geom("tip").pos, jnp.float32)
    return pose.position[-1] + rotate(pose.quaternion[-1], tip), pose.quaternion[-1]


def jacobian(pose: Pose, place: Array) -> Array:
    """Velocity of a place that is fixed to the tool, m/s, for each rad/s of a joint, [7, 3]."""
    return cross(pose.axis, place - pose.anchor)


def scratch(contact: Contact, itch: Array, last: Array) -> tuple[Array, Array, Array]:
    """Whether a contact scratches.

    Args:
        contact: of the tip.
        itch: its place, m, [3].
        last: place of the last scratch, m, [3].

    Returns:
        Force on the itch in N, whether it was scratched, and the place of the last scratch from now on.
    """
    near = contact.touching & (jnp.linalg.norm(contact.place - itch, axis=-1) < NEAR)
    on_itch = jnp.where(near, contact.force, 0.0)
    force, place = jnp.sum(on_itch), contact.place[jnp.argmax(jnp.where(near, 1.0 + contact.force, 0.0))]
    scratched = jnp.any(near) & (jnp.linalg.norm(place - last) > MOVED) & (force < HARD)
    return force, scratched, jnp.where(scratched, place, last)


def itch_frame(female: Array, itch: Itch) -> tuple[Array, Array, Array]:
    """Where it itches, m, [3]; the direction away from the limb there, and that down the limb, [3]."""
    start, axis, facing, side, radius, length = (
        jnp.asarray(x, jnp.float32)[female.astype(int), itch.limb.astype(int)] for x in _limbs()
    )
    along = radius + itch.along * (length - radius)
    normal = jnp.cos(itch.angle) * facing + jnp.sin(itch.angle) * side
    return start + along * axis + radius * normal, normal, axis


@functools.cache
def _limbs() -> tuple[np.ndarray, ...]:
    """Upper end, axis, direction towards where the tip starts, direction across, [2, 2, 3]; radius, length, [2, 2]."""
    start, end = np.stack([SHOULDER, ELBOW], axis=1), np.stack([ELBOW, WRIST], axis=1)
    axis = _unit(end - start)
    towards = START - (start + end) / 2
    facing = _unit(towards - (towards * axis).sum(-1, keepdims=True) * axis)
    return start, axis, facing, np.cross(axis, facing), RADIUS, LENGTH


@functools.cache
def people() -> dict[str, np.ndarray]:
    """`geom_pos`, `geom_quat` and `geom_size` of the model with a man and with a woman, [2, ngeom, ...]."""
    model: Any = ROBOT.model
    people = {name: np.stack([getattr(model, name)] * 2) for name in ("geom_pos", "geom_quat", "geom_size")}
    start, axis, _, _, radius, length = _limbs()
    for limb, name in enumerate(LIMBS):
        geom = model.geom(name).id
        for sex in range(2):
            people["geom_pos"][sex, geom] = start[sex, limb] + axis[sex, limb] * length[sex, limb] / 2
            mujoco.mju_quatZ2Vec(people["geom_quat"][sex, geom], axis[sex, limb])  # pyright: ignore[reportAttributeAccessIssue]
        people["geom_size"][:, geom, :2] = np.stack([radius[:, limb], length[:, limb] / 2], axis=-1)
    hand = model.geom("hand").id
    people["geom_pos"][:, hand] = WRIST + axis[:, 1] * HAND[:, None] / 2
    people["geom_size"][:, hand, 0] = HAND
    return people


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make(iid: bool = False, impl: str = "auto", worlds: int | None = None, **fields) -> ScratchItch:
    """An itch that mostly changes the limb when it moves, or moves anywhere where `iid`.

    `impl` and `worlds` are as in `physics.Simulator`.
    """
    check_flag("iid", iid)
    if impl == "warp":
        raise UserError("impl is 'warp', whose contacts can't be read; in scratch_itch it must be auto, c or jax")
    simulator = ROBOT.run_by(impl, worlds)
    if iid and "other" in fields:
        raise UserError(f"other is {fields['other']!r}; where iid is {iid} it would change nothing")
    if fields.get("reset_on_switch"):
        raise UserError("reset_on_switch is True; in scratch_itch it must be false, since scratches would be forgotten")
    for name in ("other", "female"):
        check_probability(name, fields.get(name, 0.5))
    check_not_negative(**{name: value for name, value in fields.items() if name.endswith(("_cost", "_reward"))})
    return ScratchItch(simulator=simulator, **{"p": 0.02, "horizon": 200, "iid": float(iid), **fields})
