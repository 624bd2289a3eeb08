"""MuJoCo's pictures of the ant and the humanoid, whose models are brax's."""

from pathlib import Path

import brax.envs
import numpy as np

from dynamite_envs.dlcmdp import State
from dynamite_envs.legged import Goal, Legged
from dynamite_envs.pictures.bodies import GOAL, GREEN, RED, BodyScene, mujoco


class LeggedScene(BodyScene):
    """The goal as a red ball on the ground, or the direction as a green arrow above the body."""

    def __init__(self, env: Legged):
        """Load the model; the camera follows from above, so that goals all around are seen."""
        super().__init__(env)
        self.model.light_diffuse[:] = 0.6  # that of brax dazzles from above
        self.camera = mujoco.MjvCamera()
        self.camera.type, self.camera.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, self.model.body("torso").id
        self.camera.distance, self.camera.azimuth, self.camera.elevation = 6.0, 90.0, -35.0

    @staticmethod
    def context_names(env: Legged) -> tuple[str, ...]:
        """Of the coordinates of the goal, or of the direction."""
        return GOAL if isinstance(env, Goal) else ("direction, cosine", "direction, sine")

    def file(self, env: Legged) -> Path:
        """The model of the body, of brax."""
        return Path(brax.envs.__file__).parent / "assets" / f"{type(env.body).__name__.lower()}.xml"

    def positions(self, state: State) -> np.ndarray:
        """Of the joints, [nq]."""
        return np.asarray(state.physics.pipeline_state.q)

    def mark(self, state: State) -> None:
        """By the shape of the context: a place or an angle."""
        context = np.asarray(state.context)
        if context.shape == (2,):
            self.ball(np.append(context, 0.1), 0.1, RED)
        else:
            above = self._data.body("torso").xpos + np.array([0.0, 0.0, 0.6])
            self.arrow(above, above + np.array([np.cos(context), np.sin(context), 0.0]), GREEN)
