"""An episode of ScratchItch as an animation: the itch, and the belief about its position."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dynamite_envs import pictures
from dynamite_envs.dlcmdp import DLCMDP
from dynamite_envs.scratch_itch.env import LIMBS, Itch, ScratchItch
from dynamite_jax.analysis import readout
from dynamite_jax.data.rollout import Agent, play
from dynamite_jax.data.types import AgentParams, Array
from dynamite_jax.errors import writing

EPISODES = 256  # the reader of the belief is fitted to most of them; the last of the others is drawn
ALONG, AROUND = 6, 3  # bins of a limb


def bins(itch: Itch) -> Array:
    """Bin of a position, [...]: limb, then along, then around."""
    along = jnp.minimum((itch.along * ALONG).astype(int), ALONG - 1)
    around = jnp.clip(((itch.angle / jnp.pi + 0.5) * AROUND).astype(int), 0, AROUND - 1)
    return (itch.limb.astype(int) * ALONG + along) * AROUND + around


def record(env: DLCMDP, agent: Agent, params: AgentParams, key: Array) -> tuple[Any, Array, Array]:
    """Play `EPISODES` episodes, and read a posterior off the belief of the last.

    Returns:
        States s_0 .. s_H of the last episode, rewards [H], and the probability of every bin before each step,
        [H, limbs, ALONG, AROUND].
    """
    reset_key, key, reader_key = jax.random.split(key, 3)
    start = jax.vmap(env.reset)(jax.random.split(reset_key, EPISODES))
    rollout, states, _ = play(agent, env, params, environment=start, key=key, deterministic=True)
    labels = jax.nn.one_hot(bins(states.context)[:-1], len(LIMBS) * ALONG * AROUND)
    features = agent.normalise(params.normaliser, "features", rollout.features[:-1])
    probabilities = readout.probabilities(features, labels, reader_key)[:, -1]
    episode = jax.tree.map(lambda x: x[:, -1], states)
    return episode, rollout.reward[:, -1], probabilities.reshape(-1, len(LIMBS), ALONG, AROUND)


def animate(
    env: ScratchItch, *, states: Any, reward: np.ndarray, probabilities: np.ndarray, out: Path, every: int
) -> None:
    """Write the GIF.

    Args:
        env: the environment.
        states: s_0 .. s_H of one episode.
        reward: [H].
        probabilities: of the bins, [H, limbs, ALONG, AROUND].
        out: file.
        every: steps from one picture to the next.

    Raises:
        UserError: the file can't be written.
    """
    figure = Figure(figsize=(6.2, 3.1), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    left, *limbs = figure.subplots(1, 3, width_ratios=[4, 1, 1])
    scene = pictures.scene(env)
    picture = left.imshow(scene.draw(_at(states, 0)))
    left.axis("off")
    heatmaps, marks = [], []
    for axes, limb in zip(limbs, LIMBS, strict=True):
        heatmaps.append(axes.imshow(np.zeros((ALONG, AROUND)), cmap="Blues", vmin=0, vmax=1, extent=(-90, 90, 1, 0)))
        marks.append(axes.plot([], [], "o", color="tab:red", markersize=8)[0])
        axes.set(aspect="auto", title=limb.replace("_", " "), xticks=[-90, 0, 90], yticks=[0, 1])
        axes.title.set_fontsize(9)
        axes.tick_params(labelsize=7)
    limbs[0].set_ylabel("along", fontsize=8)
    context: Itch = states.context

    def show(step: int) -> None:
        picture.set_data(scene.draw(_at(states, step)))
        for limb, (heatmap, mark) in enumerate(zip(heatmaps, marks, strict=True)):
            heatmap.set_data(probabilities[step, limb])
            itches = int(context.limb[step]) == limb
            mark.set_data([np.degrees(context.angle[step])] * itches, [context.along[step]] * itches)
        scratches, total = int(states.physics.scratches[step]), float(np.sum(reward[:step]))
        title = f"step {step}  session {int(states.session[step])}  scratches {scratches}  return {total:.0f}"
        left.set_title(title, fontsize=9)

    frame_rate: Any = 1.0 / (every * env.simulator.dt)  # real time
    try:
        frames = range(0, len(reward), every)
        with writing(out):
            FuncAnimation(figure, show, frames=frames).save(out, PillowWriter(frame_rate))  # type: ignore[arg-type]
    finally:
        scene.close()


def _at(states: Any, step: int) -> Any:
    """The state of one step."""
    return jax.tree.map(lambda x: x[step], states)
