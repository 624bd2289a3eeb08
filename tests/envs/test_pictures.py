"""Pictures show the state and the hidden context."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynamite_envs import pictures, registry
from dynamite_envs.errors import UserError
from dynamite_envs.half_cheetah import Task
from dynamite_envs.pictures.plane import AGENT, PAYS
from dynamite_envs.scratch_itch.env import Itch
from dynamite_envs.wrappers import ObserveContext


def drawn(env, *states):
    """Pictures of states of an environment."""
    scene = pictures.scene(env)
    images = [scene.draw(state).astype(int) for state in states]
    scene.close()
    assert all(image.ndim == 3 and image.shape[2] == 3 and image.std() > 5 for image in images)
    return images


def middle(image, colour, tolerance=40):
    """Centre of the pixels of a colour, (row, column), and how many there are."""
    rows, columns = np.nonzero(np.abs(image - np.array(colour)).max(-1) < tolerance)
    assert len(rows) > 8
    return np.array([rows.mean(), columns.mean()]), len(rows)


def test_the_grid_shows_the_agent_and_the_goal_that_pays():
    env = registry.make("gridworld")
    state = env.reset(jax.random.key(0))
    cells = state.physics.replace(agent=jnp.array([1, 3]), goals=jnp.array([[0, 0], [4, 2]]))
    images = drawn(env, *(state.replace(physics=cells, context=jnp.int32(context)) for context in (0, 1)))
    for image, (x, y) in zip(images, ((0, 0), (4, 2)), strict=True):
        np.testing.assert_allclose(middle(image, PAYS)[0], [300 - 60 * (y + 0.5), 60 * (x + 0.5)], atol=2)
        np.testing.assert_allclose(middle(image, AGENT)[0], [300 - 60 * 3.5, 60 * 1.5], atol=2)


def test_the_point_robot_shows_the_goal_to_reach():
    env = registry.make("point_robot", goals=3)
    state = env.reset(jax.random.key(0)).replace(physics=jnp.array([0.5, -0.8]), context=jnp.int32(1))
    (image,) = drawn(ObserveContext.of(env), state)
    unit = 300 / 3.2
    np.testing.assert_allclose(middle(image, PAYS)[0], [150 - unit, 150], atol=2)
    np.testing.assert_allclose(middle(image, AGENT)[0], [150 + 0.8 * unit, 150 + 0.5 * unit], atol=2)


def test_a_cheetah_shows_the_speed_to_reach_and_the_wind():
    """Arrows grow with both, and turn with the wind; the picture moves along with the body, tiles under it."""
    env = registry.make("halfcheetah_vel_wind")
    state = env.reset(jax.random.key(0))

    def under(speed, wind, x=0.0):
        task = Task(speed=jnp.float32(speed), direction=jnp.float32(1.0), wind=jnp.float32(wind))
        qpos = state.physics.qpos.at[0].set(x)
        return state.replace(context=task, physics=state.physics.replace(qpos=qpos))

    slow, fast, against, farther = drawn(
        env, under(1.0, 15.0), under(2.0, 15.0), under(1.0, -15.0), under(1.0, 15.0, 3.3)
    )
    green, blue = (20, 95, 30), (20, 50, 120)
    assert middle(fast, green)[1] > 1.5 * middle(slow, green)[1]
    assert middle(slow, blue)[0][1] > 205 and middle(against, blue)[0][1] < 195
    np.testing.assert_allclose(middle(farther, green)[0], middle(slow, green)[0], atol=2)
    assert np.abs(farther - slow)[200:].max() > 10


def test_a_reacher_shows_the_goal():
    env = registry.make("reacher")
    state = env.reset(jax.random.key(0))
    right, up = drawn(env, *(state.replace(context=jnp.array(goal)) for goal in ([0.16, 0.0], [0.0, 0.16])))
    red = (180, 25, 25)
    assert middle(right, red, 60)[0][1] > 260 and middle(up, red, 60)[0][0] < 90


def test_an_ant_shows_the_goal_and_the_direction():
    """From above and behind: x to the right, y away from the camera."""
    env = registry.make("ant_goal")
    state = env.reset(jax.random.key(0))
    right, away = drawn(env, *(state.replace(context=jnp.array(goal)) for goal in ([1.5, 0.0], [0.0, 1.5])))
    red = (180, 25, 25)
    assert middle(right, red, 60)[0][1] > 250
    row, column = middle(away, red, 60)[0]
    assert row < 150 and abs(column - 200) < 20
    env = registry.make("ant_dir")
    state = env.reset(jax.random.key(0))
    forward, back = drawn(env, *(state.replace(context=jnp.float32(angle)) for angle in (0.0, 3.1)))
    green = (20, 95, 30)
    assert middle(forward, green, 30)[0][1] > 205 and middle(back, green, 30)[0][1] < 195


def test_the_itch_is_a_red_ball_on_its_limb():
    env = registry.make("scratch_itch")
    state = env.reset(jax.random.key(0))

    def itching(limb):
        return state.replace(context=Itch(jnp.float32(limb), jnp.float32(0.5), jnp.float32(0.0)))

    upper, lower = (middle(image, (200, 20, 20), 60) for image in drawn(env, itching(0), itching(1)))
    assert upper[1] < 500 and lower[1] < 500
    assert np.linalg.norm(upper[0] - lower[0]) > 15


def test_pictures_come_as_fast_as_steps_are_made():
    assert pictures.frame_rate(registry.make("reacher")) == pytest.approx(50.0)
    assert pictures.frame_rate(registry.make("ant_dir")) == pytest.approx(20.0)
    assert pictures.frame_rate(registry.make("gridworld")) == pictures.FPS


def test_an_environment_without_a_picture_is_named():
    with pytest.raises(UserError, match="which has no picture; those of Grid, PointRobot"):
        pictures.scene(registry.make("probe_match"))
