"""Episodes as moving pictures."""

import io
from typing import Any

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from conftest import tiny_config
from dynamite_envs import registry
from dynamite_envs.scratch_itch.env import Itch
from dynamite_jax import config as configs
from dynamite_jax.analysis import panels, readout, video
from dynamite_jax.analysis.viewing import ALONG, AROUND, Episode, until
from dynamite_jax.commands import video as command
from dynamite_jax.data.types import Gaussian
from dynamite_jax.runtime import training

STEPS = 40


def episode(env, believed: Any, truth: Any, states: Any = None) -> Episode:
    """An episode in which nothing moves, with a switch at step 10 and a boundary predicted at 12."""
    state = env.reset(jax.random.key(0))
    steps = np.arange(STEPS)
    fields: dict[str, Any] = dict(
        states=states or repeated(state),
        reward=np.ones(STEPS),
        switched=steps == 10,
        boundary=steps == 12,
        truth=truth,
        believed=believed,
        belief=None,
        held_out=None,
    )
    return Episode(**fields)


def repeated(state: Any) -> Any:
    """s_0 .. s_H, all alike."""
    return jax.tree.map(lambda x: jnp.stack([x] * (STEPS + 1)), state)


def gridworld(length: int = STEPS) -> tuple[Any, Episode]:
    """Goal 0 until step 9, goal 1 then; it is known."""
    env, truth = registry.make("gridworld"), (np.arange(STEPS) >= 10).astype(int)
    return env, until(episode(env, np.eye(2)[truth], truth), length)


def drawn(env, what: Episode, step: int) -> np.ndarray:
    """The panel of an episode alone, [height, width, 3]."""
    figure = Figure(figsize=(4, 3), dpi=100)
    canvas = FigureCanvasAgg(figure)
    place = figure.add_gridspec(1, 1, left=0.2, right=1.0, bottom=0.2, top=0.95)[0]
    panels.panel(env, what, figure, place).show(step)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def places(image: np.ndarray, colour: tuple[int, int, int], tolerance: int = 30) -> Any:
    """Rows and columns of the pixels of a colour."""
    return np.nonzero(np.abs(image - np.array(colour)).max(-1) < tolerance)


RED, BLUE, DARK = (214, 39, 40), (31, 119, 180), (8, 48, 107)


# -- panels -------------------------------------------------------------------------------------------------------


def column(step: float) -> float:
    """Where a step is in a panel that is drawn alone, pixels."""
    return 80 + 320 * (step + 0.5) / STEPS


def test_probabilities_are_shown_up_to_the_step_that_it_is():
    env, what = gridworld()
    rows, columns = places(drawn(env, what, 25), DARK)
    upper = rows < 127  # the middle of the axes
    assert columns.max() < column(26) and columns.min() < column(1)
    np.testing.assert_allclose([columns[upper].max(), columns[~upper].min()], column(9.5), atol=3)
    rows, columns = places(drawn(env, what, 5), DARK)
    assert columns.max() < column(6) and rows.max() < 130


def test_the_truth_is_a_line_through_the_row_of_the_context():
    env, what = gridworld()
    rows, columns = places(drawn(env, what, 25), RED)
    early, late = columns < column(8), columns > column(12)
    assert np.ptp(rows[early]) < 5 and np.ptp(rows[late]) < 5
    assert rows[late].mean() - rows[early].mean() == pytest.approx(225 / 2, abs=6)
    assert columns.max() < column(26)


def test_boundaries_are_shown_once_they_are_predicted():
    env, what = gridworld()

    def triangle(step):
        return places(drawn(env, what, step)[:14], (0, 0, 0), 60)[1]  # above the axes

    assert not len(triangle(11)) and triangle(12).mean() == pytest.approx(column(12), abs=2)


def test_numbers_have_a_band_of_one_deviation():
    env = registry.make("halfcheetah_vel")
    truth = np.linspace(1.0, 2.0, STEPS)[:, None]
    deviation = 0.25

    def drawn_with(shift: float) -> tuple[float, float, float]:
        """How far above the truth the middle of the band is, its width, and a unit; pixels."""
        believed = Gaussian(jnp.asarray(truth + shift), jnp.full(truth.shape, 2 * np.log(deviation)))
        what = episode(env, believed, truth).replace(switched=np.zeros(STEPS, bool))
        image = drawn(env, what, STEPS - 1)
        strip = image[:, 200:203]
        band = places(strip, (199, 221, 236), 14)[0]
        above = places(strip, RED)[0].mean() - (band.min() + band.max()) / 2
        return above, np.ptp(band), np.ptp(places(image, RED)[0])  # the truth rises by 1

    for shift in (0.0, 0.15):
        above, width, unit = drawn_with(shift)
        assert width == pytest.approx(2 * deviation * unit, abs=4) and above == pytest.approx(shift * unit, abs=4)


def test_the_itch_is_marked_on_its_limb_where_it_is():
    env = registry.make("scratch_itch")
    state = env.reset(jax.random.key(0))

    def marked(limb: float, along: float) -> np.ndarray:
        itch = Itch(jnp.float32(limb), jnp.float32(along), jnp.float32(0.0))
        nothing = np.zeros((STEPS, 2 * ALONG * AROUND))
        what = episode(env, nothing, np.zeros(STEPS, int), repeated(state.replace(context=itch)))
        rows, columns = places(drawn(env, what, 3), RED)
        return np.array([rows.mean(), columns.mean()])

    upper, lower, farther = marked(0, 0.2), marked(1, 0.2), marked(1, 0.8)
    assert lower[1] - upper[1] > 40 and abs(lower[0] - upper[0]) < 3
    assert farther[0] - lower[0] > 40 and abs(farther[1] - lower[1]) < 3


def test_probabilities_of_places_lie_on_their_limbs():
    env = registry.make("scratch_itch")
    believed = np.zeros((STEPS, 2, ALONG, AROUND))
    believed[7, 1, -1, 0] = 1.0
    what = episode(env, believed.reshape(STEPS, -1), np.zeros(STEPS, int))
    assert not len(places(drawn(env, what, 6), DARK)[0])
    rows, columns = places(drawn(env, what, 7), DARK)
    assert 230 < columns.mean() < 310 and rows.mean() > 180  # the second limb, its end, on the left


# -- pictures and files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "rate", "every", "expected"),
    [
        (60, 10.0, None, (1, 61 / 6)),  # a grid: 6 s
        (200, 20.0, None, (2, 101 / 10)),  # real time
        (1000, 20.0, None, (7, 144 / 15)),  # 50 s are shown in 15
        (57, 50.0, None, (5, 13 / 1.14)),  # not 6, as rounding would have it
        (200, 20.0, 8, (8, 26 / 10)),
        (1000, 20.0, 1000, (1000, 2 / 15)),
    ],
)
def test_an_episode_is_shown_as_it_happens_but_in_fifteen_seconds(steps, rate, every, expected):
    assert video.pace(steps, rate, every) == pytest.approx(expected)
    every, shown = video.pace(steps, rate, every)
    assert len(video.steps(steps, every)) / shown == pytest.approx(min(steps / rate, 15.0))


def test_the_last_state_is_shown():
    assert video.steps(10, 3) == [0, 3, 6, 9, 10] and video.steps(8, 4) == [0, 4, 8] and video.steps(1, 5) == [0, 1]


def test_the_end_has_the_whole_return(monkeypatch):
    env, what = gridworld()
    titles = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda axes, text, **how: titles.append(text))
    list(video.frames(env, [video.Shown("one", what)], 30))
    assert [title.split("\n")[1] for title in titles] == [
        "step 0  session 0  return 0",
        "step 30  session 0  return 30",
        "step 40  session 0  return 40",
    ]


def test_episodes_are_side_by_side_until_the_longest_ends():
    env, short = gridworld(length=8)
    _, long = gridworld(length=20)
    images = list(video.frames(env, [video.Shown("one", short), video.Shown("two", long)], 6))
    assert len(images) == 5 and len({image.shape for image in images}) == 1
    height, width, _ = images[0].shape
    changes = np.abs(np.diff(np.array(images, int), axis=0))
    left, right = changes[:, :, : width // 2].max((1, 2, 3)), changes[:, :, width // 2 :].max((1, 2, 3))
    assert (left > 0).tolist() == [True, True, False, False] and (right > 0).all()
    assert height > width / 2


@pytest.mark.parametrize(("noise", "width", "count"), [(0, 324, 100), (255, 324, 100), (255, 2592, 30)])
def test_a_gif_is_no_larger_than_a_page_takes(noise, width, count, tmp_path):
    """Pictures of nothing, and those that compress worst; in both the same time passes, and the last is there."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, noise + 1, (378, width, 3), np.uint8) for _ in range(count - 1)]
    images.append(np.full_like(images[0], 200))
    video.write(images, count / 10, tmp_path / "a.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]
    assert (tmp_path / "a.gif").stat().st_size <= video.BYTES
    with Image.open(tmp_path / "a.gif") as picture:
        durations = []
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            durations.append(picture.info["duration"])
        last = np.asarray(picture.convert("RGB"), int)
    assert sum(durations) == pytest.approx(10_000, rel=0.05)
    assert np.ptp(last, (0, 1)).max() == 0 and np.abs(last - 200).max() < 60


def test_colours_survive_in_a_gif(tmp_path):
    image = np.full((100, 100, 3), 255, np.uint8)
    image[:10, :10], image[20:30, 20:30] = RED, BLUE
    video.write([image, image[::-1]], 10.0, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as picture:
        shown = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(shown[5, 5] - RED).max() < 25 and np.abs(shown[25, 25] - BLUE).max() < 25


def test_an_mp4_holds_every_picture(tmp_path):
    images = [np.full((61, 83, 3), 25 * number, np.uint8) for number in range(8)]
    video.write(images, 2.5, tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert stream.average_rate == 2.5 and stream.codec_context.name == "h264"
    assert [image.shape for image in shown] == [(60, 82, 3)] * 8
    np.testing.assert_allclose([image.mean() for image in shown], 25 * np.arange(8), atol=4)


# -- the command --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--out a.png", "out is 'a.png'; its name must end in .gif or .mp4"),
        ("--every 0", "every is 0; it must be 1 or more"),
        ("--labels a b", "labels are 2; they must be as many as runs, 1"),
        ("--runs here there", "runs: there is of point_robot, here of gridworld; they must be of one environment"),
        ("--runs here other", "runs: other has other env_options than here; they must be of one environment"),
        ("--runs", "runs are none; name one run folder or more"),
        ("--runs here here", "runs are here, here; they must differ"),
        ("--out nowhere/a.gif", "out is 'nowhere/a.gif'; 'nowhere' must be a folder"),
        ("--seed 2", "seed is 2; here has agents from 0 to 1"),
        ("--runs here fewer --seed 1", "seed is 1; fewer has agents from 0 to 0"),
        ("--episode 4294967296", "episode is 4294967296; it must be 0 to 2^32 - 1"),
        ("--episode=-1", "episode is -1; it must be 0 to 2^32 - 1"),
        ("--runs nowhere", "run is 'nowhere'; it must be a run folder, one with a config.json"),
    ],
)
def test_what_can_not_be_shown_is_refused(flags, message, tmp_path, refused):
    for folder, env, options in (
        ("here", "gridworld", {}),
        ("there", "point_robot", {}),
        ("other", "gridworld", {"p": 0.2}),
    ):
        (tmp_path / folder).mkdir()
        configs.save(tiny_config(env, env_options=options), tmp_path / folder / "config.json")
    (tmp_path / "fewer").mkdir()
    configs.save(tiny_config("gridworld", seeds=1), tmp_path / "fewer" / "config.json")
    given = flags.split() if "--runs" in flags else ["--runs", "here", *flags.split()]
    assert refused(command, *given) == message


def test_an_environment_without_a_picture_is_refused(tmp_path, refused):
    (tmp_path / "run").mkdir()
    configs.save(tiny_config("probe_match"), tmp_path / "run" / "config.json")
    line = refused(command, "--runs", "run")
    assert line.startswith("env is ContextBandit, which has no picture; those of Grid, PointRobot, HalfCheetah")


def test_an_mp4_needs_its_extra(refused, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    line = refused(command, "--runs", "here", "--out", "a.mp4")
    assert line == "out is 'a.mp4'; the package av is missing, which the extra video installs"


def test_two_runs_are_shown_in_one_file(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    options = {"horizon": 12}
    monkeypatch.setattr(readout, "UPDATES", 20)  # what is read is not looked at
    training.train(tiny_config("gridworld", steps=480, chunk=1, eval_episodes=8, env_options=options), run)
    capsys.readouterr()
    out = tmp_path / "a.gif"
    flags = ["--runs", str(run), str(run), "--labels", "one", "two", "--out", str(out), "--every", "3"]
    monkeypatch.setattr("sys.argv", ["video", *flags])
    command.main()
    assert capsys.readouterr().out == f"{out}\n"
    with Image.open(io.BytesIO(out.read_bytes())) as picture:
        assert getattr(picture, "n_frames", 1) == 5 and picture.size[0] > 1.5 * picture.size[1]
