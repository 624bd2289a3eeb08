"""MuJoCo's pictures of the environments with physics."""

from pathlib import Path
from typing import Any

import jax
import mujoco as untyped
import numpy as np

from dynamite_envs.dlcmdp import State
from dynamite_envs.half_cheetah import HalfCheetah
from dynamite_envs.physics.backend import MuJoCoDLCMDP
from dynamite_envs.reacher import Reacher
from dynamite_envs.scratch_itch.env import ScratchItch, itch_frame, people

mujoco: Any = untyped
HEIGHT, WIDTH = 300, 400  # pixels
RED, GREEN, BLUE = (0.85, 0.1, 0.1, 1.0), (0.15, 0.6, 0.2, 1.0), (0.15, 0.35, 0.8, 1.0)
SKY, TILES = (0.95, 0.96, 0.98), ((0.86, 0.89, 0.86), (0.78, 0.82, 0.78))
WIND_SCALE = 0.05  # m of an arrow for each N
GOAL = ("goal x, m", "goal y, m")


class BodyScene:
    """The model, seen by its camera; a subclass adds marks of the context.

    Attributes:
        camera: its name in the model, or one of MuJoCo's.
    """

    camera: Any = "side"

    def __init__(self, env: Any):
        """Load the model; `close` frees the renderer."""
        self.model = _decorated(self.file(env))
        self._data = mujoco.MjData(self.model)
        self._renderer = mujoco.Renderer(self.model, HEIGHT, WIDTH)

    def file(self, env: MuJoCoDLCMDP) -> Path:
        """The model of an environment."""
        return env.simulator.file

    def positions(self, state: State) -> np.ndarray:
        """Of the joints, [nq]."""
        return np.asarray(state.physics.qpos)

    def draw(self, state: State) -> np.ndarray:
        """Pixels, [HEIGHT, WIDTH, 3]."""
        self._data.qpos[:] = self.positions(state)
        mujoco.mj_forward(self.model, self._data)
        self._renderer.update_scene(self._data, camera=self.camera)
        self.mark(state)
        return self._renderer.render()

    def mark(self, state: State) -> None:
        """Draw the context; nothing by default."""

    def ball(self, place: np.ndarray, radius: float, colour: tuple[float, ...]) -> None:
        """A ball in the world, m."""
        shape = (mujoco.mjtGeom.mjGEOM_SPHERE, np.full(3, radius), np.asarray(place, float), np.eye(3).ravel())
        mujoco.mjv_initGeom(self._next_geom(), *shape, np.asarray(colour, np.float32))

    def arrow(self, start: np.ndarray, end: np.ndarray, colour: tuple[float, ...]) -> None:
        """An arrow in the world, m."""
        geom, kind = self._next_geom(), mujoco.mjtGeom.mjGEOM_ARROW
        mujoco.mjv_initGeom(geom, kind, np.zeros(3), np.zeros(3), np.eye(3).ravel(), np.asarray(colour, np.float32))
        mujoco.mjv_connector(geom, kind, 0.03, np.asarray(start, float), np.asarray(end, float))

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()

    def _next_geom(self) -> Any:
        scene = self._renderer.scene
        scene.ngeom += 1
        return scene.geoms[scene.ngeom - 1]


def _decorated(file: Path) -> Any:
    """A model with a light sky and, where there is a floor, tiles on it by which movement is seen."""
    spec = mujoco.MjSpec.from_file(str(file))
    if not any(texture.type == mujoco.mjtTexture.mjTEXTURE_SKYBOX for texture in spec.textures):
        gradient = {"builtin": mujoco.mjtBuiltin.mjBUILTIN_GRADIENT, "width": 8, "height": 8}
        spec.add_texture(name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, rgb1=SKY, rgb2=SKY, **gradient)
    if floor := spec.geom("floor"):
        checker = {"builtin": mujoco.mjtBuiltin.mjBUILTIN_CHECKER, "width": 300, "height": 300}
        spec.add_texture(name="tiles", type=mujoco.mjtTexture.mjTEXTURE_2D, rgb1=TILES[0], rgb2=TILES[1], **checker)
        tiles = spec.add_material(name="tiles", texuniform=True, texrepeat=[0.5, 0.5])
        tiles.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "tiles"
        floor.material, floor.rgba = "tiles", np.ones(4)
    return spec.compile()


class CheetahScene(BodyScene):
    """A green arrow as long as the target speed, 1 m for each m/s, or the way that pays; a blue one for the wind."""

    def __init__(self, env: HalfCheetah):
        """Load the model."""
        super().__init__(env)
        self._varies = env.varies

    @staticmethod
    def context_names(env: HalfCheetah) -> tuple[str, ...]:
        """Of the parts that vary."""
        return tuple({"speed": "speed, m/s", "direction": "direction", "wind": "wind, N"}[part] for part in env.varies)

    def mark(self, state: State) -> None:
        """Arrows above the torso."""
        above = self._data.body("torso").xpos + np.array([0.0, 0.0, 0.6])
        task = state.context
        along = float(task.direction if "direction" in self._varies else task.speed)
        if self._varies != ("wind",) and along:
            self.arrow(above, above + np.array([along, 0.0, 0.0]), GREEN)
        if "wind" in self._varies:
            higher = above + np.array([0.0, 0.0, 0.25])
            self.arrow(higher, higher + np.array([WIND_SCALE * float(task.wind), 0.0, 0.0]), BLUE)


class ReacherScene(BodyScene):
    """The goal as a red ball."""

    camera = "above"

    def __init__(self, env: Reacher):
        """Load the model."""
        super().__init__(env)

    @staticmethod
    def context_names(env: Reacher) -> tuple[str, ...]:
        """Of the coordinates of the goal."""
        return GOAL

    def mark(self, state: State) -> None:
        """A ball in the plane of the arm."""
        height = self._data.geom_xpos[-1][2]
        self.ball(np.append(np.asarray(state.context), height), 0.012, RED)


class ItchScene(BodyScene):
    """The arm and one person, with the itch as a red ball."""

    def __init__(self, env: ScratchItch):
        """Load the model."""
        super().__init__(env)
        self._frame = jax.jit(itch_frame)

    @staticmethod
    def context_names(env: ScratchItch) -> tuple[str, ...]:
        """Of its features."""
        return "limb", "along", "cosine", "sine"

    def draw(self, state: State) -> np.ndarray:
        """Pixels of the person of the state, [HEIGHT, WIDTH, 3]."""
        for name, values in people().items():
            getattr(self.model, name)[:] = values[int(state.physics.female)]
        return super().draw(state)

    def mark(self, state: State) -> None:
        """A ball where it itches."""
        place, _, _ = self._frame(state.physics.female, state.context)
        self.ball(np.asarray(place), 0.014, RED)
