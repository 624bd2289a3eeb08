"""Pictures of the gridworlds and of the point robot."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from dynamite_envs.dlcmdp import FiniteDLCMDP, State
from dynamite_envs.gridworld.grid import Grid
from dynamite_envs.point_robot import PointRobot

SIZE = 300  # pixels of a side
FINER = 4  # drawn so many times larger, for smooth edges
WHITE, LINES, IDLE, PAYS, AGENT = (255, 255, 255), (205, 205, 205), (165, 165, 165), (214, 39, 40), (31, 119, 180)


class Canvas:
    """A square of the plane: `low` to `high` in x and in y, y upwards."""

    def __init__(self, low: float, high: float):
        """A white one."""
        self._low, self._unit = low, SIZE * FINER / (high - low)
        self._image = Image.new("RGB", (SIZE * FINER, SIZE * FINER), WHITE)
        self._draw = ImageDraw.Draw(self._image)

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: tuple[int, int, int]) -> None:
        """A thin line."""
        self._draw.line([self._pixel(*start), self._pixel(*end)], fill=colour, width=FINER)

    def disc(self, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
        """A filled circle."""
        self._draw.ellipse([self._pixel(x - radius, y + radius), self._pixel(x + radius, y - radius)], fill=colour)

    def square(self, x: float, y: float, half: float, colour: tuple[int, int, int]) -> None:
        """A filled square around a place."""
        self._draw.rectangle([self._pixel(x - half, y + half), self._pixel(x + half, y - half)], fill=colour)

    def pixels(self) -> np.ndarray:
        """The picture, [SIZE, SIZE, 3]."""
        return np.asarray(self._image.resize((SIZE, SIZE), Image.Resampling.BOX))

    def _pixel(self, x: float, y: float) -> tuple[float, float]:
        return (x - self._low) * self._unit, SIZE * FINER - (y - self._low) * self._unit


class GridScene:
    """Cells, goals as discs, the one that pays in red, the agent as a blue square."""

    def __init__(self, env: Grid):
        """The grid."""
        self._cells = env.cells

    @staticmethod
    def context_names(env: Grid) -> tuple[str, ...]:
        """Of the goals."""
        return _goals(env)

    def draw(self, state: State) -> np.ndarray:
        """Pixels, [SIZE, SIZE, 3]."""
        canvas = Canvas(-0.5, self._cells - 0.5)
        for edge in np.arange(self._cells + 1) - 0.5:
            canvas.line((edge, -0.5), (edge, self._cells - 0.5), LINES)
            canvas.line((-0.5, edge), (self._cells - 0.5, edge), LINES)
        for number, (x, y) in enumerate(np.asarray(state.physics.goals)):
            canvas.disc(x, y, 0.4, PAYS if number == int(state.context) else IDLE)
        x, y = np.asarray(state.physics.agent)
        canvas.square(x, y, 0.2, AGENT)
        return canvas.pixels()

    def close(self) -> None:
        """Nothing is held."""


class PointScene:
    """The semicircle of goals, the one to reach in red, the robot in blue."""

    def __init__(self, env: PointRobot):
        """The environment."""
        self._goals = np.asarray(jax.vmap(env.goal)(jnp.arange(env.initial.shape[-1])))

    @staticmethod
    def context_names(env: PointRobot) -> tuple[str, ...]:
        """Of the goals, counter-clockwise."""
        return _goals(env)

    def draw(self, state: State) -> np.ndarray:
        """Pixels, [SIZE, SIZE, 3]."""
        canvas = Canvas(-1.6, 1.6)
        canvas.line((-1.6, 0.0), (1.6, 0.0), LINES)
        canvas.line((0.0, -1.6), (0.0, 1.6), LINES)
        for number, (x, y) in enumerate(self._goals):
            canvas.disc(x, y, 0.07, PAYS if number == int(state.context) else IDLE)
        x, y = np.asarray(state.physics)
        canvas.disc(x, y, 0.06, AGENT)
        return canvas.pixels()

    def close(self) -> None:
        """Nothing is held."""


def _goals(env: FiniteDLCMDP) -> tuple[str, ...]:
    return tuple(f"goal {number}" for number in range(env.initial.shape[-1]))
