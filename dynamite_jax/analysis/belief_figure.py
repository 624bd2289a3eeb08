"""One picture of a belief: over an episode, over the contexts, and where it expects reward."""

from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from dynamite_jax.analysis import reward_maps
from dynamite_jax.analysis.panels import SMALL, SMALLER, TRUE, TimeMarks, panel
from dynamite_jax.analysis.viewing import Episode, HeldOut, Viewed, contexts, state_at
from dynamite_jax.beliefs.belief import Belief
from dynamite_jax.beliefs.latent import LatentBelief
from dynamite_jax.beliefs.segments import SegmentBelief
from dynamite_jax.data.types import Array, Gaussian
from dynamite_jax.errors import writing

# Steps whose reward is decoded, from the switch to the longest session but the first.
AROUND_A_SWITCH = (-1, 1, 2, 4, 9)
FEW = 10  # contexts that have a colour each
POINTS = 3000  # steps in the plane of principal components
INCHES, DPI = 11.0, 110  # of the width


def draw(viewed: Viewed, out: Path, title: str) -> None:
    """Write the picture.

    Args:
        viewed: an agent whose belief has features, and its episode.
        out: file; it is replaced if it is there.
        title: what it is of.

    Raises:
        UserError: it can't be written.
    """
    episode = viewed.episode
    probability = boundary_probability(viewed.agent.belief, episode.belief)
    latent = viewed.agent.belief.summary(episode.belief)
    maps = _maps(viewed)
    heights = [2.6, *[1.0] * (probability is not None), *[1.7] * isinstance(latent, Gaussian)]
    figure = Figure(figsize=(INCHES, 0.5 + sum(heights) + 2.4 * bool(maps)), layout="constrained")
    figure.suptitle(title, fontsize=SMALL + 3)
    over_time: Figure | SubFigure = figure
    if maps:
        over_time, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[sum(heights), 2.4])[:, 0]
        below.suptitle("reward that is expected of standing still", fontsize=SMALL)
        for axes, one in zip(below.subplots(1, len(maps), squeeze=False)[0], maps, strict=True):
            _draw_map(axes, one)
    grid = over_time.add_gridspec(len(heights), 2, height_ratios=heights, width_ratios=[5, 3])
    shown = episode.length - 1
    panel(viewed.env, episode, over_time, grid[0, 0]).show(shown)
    rows = iter(range(1, len(heights)))
    if probability is not None:
        axes = over_time.add_subplot(grid[next(rows), 0])
        axes.fill_between(np.arange(len(probability)), probability, step="mid", color="black", alpha=0.6, linewidth=0)
        axes.set(ylim=(0, 1), yticks=[0, 1])
        axes.set_ylabel("boundary", fontsize=SMALL)
        TimeMarks(axes, episode).show(shown)
    if isinstance(latent, Gaussian):
        axes = over_time.add_subplot(grid[next(rows), 0])
        mean, deviation = np.asarray(latent.mean), np.exp(0.5 * np.asarray(latent.log_variance))
        for number in range(mean.shape[1]):
            (line,) = axes.plot(mean[:, number], linewidth=1)
            low, high = mean[:, number] - deviation[:, number], mean[:, number] + deviation[:, number]
            axes.fill_between(np.arange(len(mean)), low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axes.set_ylabel("latent", fontsize=SMALL)
        TimeMarks(axes, episode).show(shown)
    _draw_components(over_time.add_subplot(grid[:, 1]), viewed)
    with writing(out):
        figure.savefig(out, dpi=DPI)


def boundary_probability(belief: Belief, state: Any) -> Array | None:
    """Probability that the newest evidence comes from a new session, of states [H, ...], [H]; None of other beliefs."""
    if isinstance(belief, SegmentBelief):
        begins = (state.length == 1) & (state.step > 2)[:, None]
        return jnp.where(begins, jax.nn.softmax(state.log_weight, axis=-1), 0.0).sum(-1)
    if isinstance(belief, LatentBelief) and belief.detects:
        return jax.nn.sigmoid(state.boundary_logit)
    return None


def some_steps(held_out: HeldOut) -> tuple[np.ndarray, np.ndarray]:
    """Steps of episodes before their ends, at most `POINTS` of them.

    Returns:
        Features of the belief, [N, F], and the context or its first feature, [N].
    """
    features, truth = np.asarray(held_out.features)[held_out.valid], np.asarray(held_out.truth)[held_out.valid]
    some = np.random.default_rng(0).permutation(len(features))[:POINTS]
    return features[some], truth.reshape(len(features), -1)[some, 0]


def components(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of steps.

    Args:
        features: [N, F].

    Returns:
        The first two, [N, 2] (the second 0 where there is one feature), and the share of the variance of each, [2].
    """
    centred = features - features.mean(0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    both = np.zeros((len(features), 2))
    both[:, : len(size)] = (left * size)[:, :2]
    share = np.zeros(2)
    share[: len(size)] = (size**2 / max(np.sum(size**2), 1e-12))[:2]
    return both, share


class _Map(NamedTuple):
    """Expected reward in the plane before a step, and what is there."""

    step: int
    extent: tuple[float, float, float, float]
    reward: np.ndarray
    agent: np.ndarray
    goal: np.ndarray


def _maps(viewed: Viewed) -> list[_Map]:
    """What the belief expects around a switch; nothing where it decodes no reward, or there is no plane."""
    env, agent, params, episode = viewed

    @jax.jit
    def expected(belief: Any, places: reward_maps.Places) -> Array:
        return reward_maps.expected(agent, params, belief, places, jax.random.key(0))

    maps = []
    for step in steps_around_a_switch(episode):
        state = state_at(episode, step)
        places = reward_maps.places(env, state.physics)
        if places is None or not agent.belief.decodes:
            return []
        reward = np.asarray(expected(jax.tree.map(itemgetter(step), episode.belief), places))
        maps.append(_Map(step, places.extent, reward, *map(np.asarray, reward_maps.marks(env, state))))
    return maps


def steps_around_a_switch(episode: Episode) -> list[int]:
    """Steps just before and after the switch to the longest session but the first; of an episode without, its first."""
    length = episode.length
    starts = np.flatnonzero(episode.switched)
    switch = starts[np.argmax(np.diff(starts, append=length))] if len(starts) else 1
    return [step for step in (int(switch) + offset for offset in AROUND_A_SWITCH) if 0 <= step < length]


def _draw_map(axes: Axes, one: _Map) -> None:
    """The reward in colours, a ring around the goal, a square where the agent is."""
    image = axes.imshow(one.reward, extent=one.extent, origin="lower", cmap="viridis")
    axes.plot(*one.goal, "o", markerfacecolor="none", markeredgecolor=TRUE, markersize=12, markeredgewidth=2)
    axes.plot(*one.agent, "s", color="white", markeredgecolor="black", markersize=5)
    axes.set_title(f"step {one.step}", fontsize=SMALL)
    axes.tick_params(labelsize=SMALLER)
    colours = axes.figure.colorbar(image, ax=axes, shrink=0.75)
    colours.ax.tick_params(labelsize=SMALLER)


def _draw_components(axes: Axes, viewed: Viewed) -> None:
    """The belief of many steps in the plane of its principal components, coloured by the true context."""
    known = contexts(viewed.env)
    features, truth = some_steps(viewed.episode.held_out)
    both, share = components(features)
    few = known.finite and len(known.names) <= FEW
    colours = colormaps["turbo"].resampled(len(known.names)) if few else colormaps["turbo"]
    bounds = (-0.5, len(known.names) - 0.5) if few else (None, None)
    points = axes.scatter(*both.T, c=truth, s=6, cmap=colours, vmin=bounds[0], vmax=bounds[1], linewidth=0)
    axes.set_xlabel(f"first component of the belief, {share[0]:.0%} of the variance", fontsize=SMALL)
    axes.set_ylabel(f"second, {share[1]:.0%}", fontsize=SMALL)
    axes.tick_params(labelsize=SMALLER)
    legend = axes.figure.colorbar(points, ax=axes, location="top", shrink=0.8)
    legend.set_label("number of the context" if known.finite else known.names[0], fontsize=SMALL)
    legend.ax.tick_params(labelsize=SMALLER)
    if few:
        legend.set_ticks(range(len(known.names)))
