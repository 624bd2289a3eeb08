"""Episodes as moving pictures: what happens, and below it what the agent believes of the context."""

import io
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from dynamite_envs import pictures
from dynamite_envs.dlcmdp import DLCMDP
from dynamite_jax.analysis.panels import SMALL, Panel, panel
from dynamite_jax.analysis.viewing import Episode, state_at
from dynamite_jax.errors import writing

SECONDS = 15.0  # a longer episode is shown faster
PICTURES_A_SECOND = 10.0  # at most, where `every` is not named
BYTES = 1_000_000  # of a GIF
INCHES, DPI = (3.6, 4.2), 90  # of one episode

# Size, colours, and every how many pictures: what a GIF that is too large is reduced to, one after the other.
_SMALLER = ((1.0, 128, 1), (1.0, 48, 1), (0.8, 48, 1), (0.8, 32, 2), (0.65, 32, 2), (0.5, 24, 3), (0.4, 16, 4))
_LEAST_DELAY = 20  # ms; what is shorter browsers take for 100


class Shown(NamedTuple):
    """An episode, and what it is called.

    Attributes:
        name: of the agent, such as its method.
        episode: the episode, of arrays on the host.
    """

    name: str
    episode: Episode


def pace(length: int, frame_rate: float, every: int | None = None) -> tuple[int, float]:
    """Steps from one picture to the next, and pictures a second; real time, but at most `SECONDS` of it.

    Args:
        length: steps of the episode.
        frame_rate: steps a second in real time.
        every: steps from one picture to the next; by default so many that there are `PICTURES_A_SECOND` or fewer.
    """
    seconds = min(length / frame_rate, SECONDS)
    every = every or math.ceil(length / seconds / PICTURES_A_SECOND - 1e-9)
    return every, len(steps(length, every)) / seconds


def frames(env: DLCMDP, shown: list[Shown], every: int) -> Iterator[np.ndarray]:
    """Pictures of episodes side by side, [height, width, 3], every so many steps, and at the end.

    Args:
        env: their environment.
        shown: the episodes, on the same contexts.
        every: steps from one picture to the next.
    """
    width, height = INCHES
    figure = Figure(figsize=(width * len(shown), height), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    scene = pictures.scene(env)
    try:
        places = figure.subfigures(1, len(shown), squeeze=False)[0]
        columns = [_Column(env, scene, one, place) for one, place in zip(shown, places, strict=True)]
        for step in steps(max(one.episode.length for one in shown), every):
            for column in columns:
                column.show(step)
            canvas.draw()
            yield np.asarray(canvas.buffer_rgba())[..., :3].copy()
    finally:
        scene.close()


def steps(length: int, every: int) -> list[int]:
    """Numbers of the states s_0 .. s_H of an episode that are shown: every so many, and the last."""
    shown = list(range(0, length, every))
    return [*shown, length]


def write(images: Iterable[np.ndarray], rate: float, out: Path) -> None:
    """Write a GIF of at most `BYTES`, or an MP4.

    Args:
        images: of the same size, [height, width, 3].
        rate: pictures a second.
        out: file; it is replaced if it is there.

    Raises:
        UserError: it can't be written.
    """
    data = _mp4(images, rate) if out.suffix == ".mp4" else _gif(list(images), rate)
    part = out.with_name(f"{out.name}.part")
    with writing(out):
        part.write_bytes(data)
        part.replace(out)


class _Column:
    """One episode: the scene, and the panel of its belief."""

    def __init__(self, env: DLCMDP, scene: pictures.Scene, shown: Shown, figure: SubFigure):
        self._scene, self._shown, self._outcomes = scene, shown, env.unwrapped.outcomes
        grid = figure.add_gridspec(2, height_ratios=[3, 2], left=0.18, right=0.96, bottom=0.1, top=0.9, hspace=0.12)
        self._axes = figure.add_subplot(grid[0])
        self._axes.axis("off")
        self._picture = self._axes.imshow(scene.draw(state_at(shown.episode, 0)))
        self._panel: Panel = panel(env, shown.episode, figure, grid[1])

    def show(self, step: int) -> None:
        """Draw a state; an episode that ended before stays as it was."""
        name, episode = self._shown
        step = min(step, episode.length)
        state = state_at(episode, step)
        self._picture.set_data(self._scene.draw(state))
        self._panel.show(min(step, episode.length - 1))  # nothing is believed behind the last step
        reached = {"return": float(np.sum(episode.reward[:step])), **self._outcomes(state.physics)}
        counts = "  ".join(f"{key} {float(value):.1f}".removesuffix(".0") for key, value in reached.items())
        self._axes.set_title(f"{name}\nstep {step}  session {int(state.session)}  {counts}", fontsize=SMALL + 1)


def _gif(images: list[np.ndarray], rate: float) -> bytes:
    """The best GIF of at most `BYTES`."""
    for scale, colours, stride in _smaller():
        chosen = [Image.fromarray(image) for image in images[::stride]]
        if (len(images) - 1) % stride:
            chosen.append(Image.fromarray(images[-1]))
        width, height = (max(1, round(scale * side)) for side in chosen[0].size)
        if scale < 1.0:
            chosen = [image.resize((width, height), Image.Resampling.LANCZOS) for image in chosen]
        palette = _together(chosen).quantize(colours, method=Image.Quantize.FASTOCTREE)
        first, *others = (image.quantize(palette=palette, dither=Image.Dither.NONE) for image in chosen)
        file = io.BytesIO()
        delay = max(round(1000 * len(images) / rate / len(chosen)), _LEAST_DELAY)
        first.save(file, "GIF", save_all=True, append_images=others, optimize=False, duration=delay, loop=0)
        if len(data := file.getvalue()) <= BYTES:
            return data
    raise AssertionError("a picture of a pixel is small enough")


def _smaller() -> Iterator[tuple[float, int, int]]:
    """Ever smaller GIFs: size, colours, and every how many pictures."""
    yield from _SMALLER
    scale, colours, stride = _SMALLER[-1]
    for power in range(1, 20):
        yield scale * 0.7**power, colours, stride


def _together(images: list[Image.Image]) -> Image.Image:
    """Some of the pictures in one, from which the colours of all are taken."""
    some = [*images[:: max(1, len(images) // 8)], images[-1]]
    width, height = some[0].size
    sheet = Image.new("RGB", (width, height * len(some)))
    for row, image in enumerate(some):
        sheet.paste(image, (0, row * height))
    return sheet


def _mp4(images: Iterable[np.ndarray], rate: float) -> bytes:
    """H.264 of even sides, which players ask for."""
    import av  # of an extra  # pyright: ignore[reportMissingImports]

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = None
        for image in images:
            height, width = (side - side % 2 for side in image.shape[:2])
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()
