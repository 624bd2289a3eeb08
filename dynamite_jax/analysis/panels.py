"""Pictures of a belief over the steps of an episode, beside the true context; drawn without pyplot."""

from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.gridspec import SubplotSpec

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_envs.scratch_itch.env import LIMBS, ScratchItch
from dynamite_jax.analysis.viewing import ALONG, AROUND, Contexts, Episode, contexts
from dynamite_jax.data.types import Gaussian

TRUE, BELIEVED, NOW = "tab:red", "tab:blue", "0.4"
SMALL, SMALLER = 8, 7  # points of letters
DOTS: dict[str, Any] = {"marker": ".", "markersize": 3, "markeredgewidth": 0}  # by which a single step is seen
UNSEEN = 0.02  # share of the steps whose band may reach beyond the axes, at each end
MARGIN = 0.1  # of the range of what is shown


class Panel(Protocol):
    """A picture of what is believed, up to a step."""

    def show(self, step: int) -> None:
        """What is believed before a step, and where it can be shown over time, before all earlier ones."""
        ...


def panel(env: DLCMDP, episode: Episode, figure: Figure | SubFigure, place: SubplotSpec) -> Panel:
    """The panel that suits the contexts of an environment.

    Args:
        env: the environment.
        episode: the episode, of arrays on the host.
        figure: where it is drawn.
        place: which part of the figure it has.
    """
    if isinstance(env.unwrapped, ScratchItch):
        return Limbs(episode, figure, place)
    known = contexts(env)
    return (Probabilities if known.finite else Numbers)(known, episode, figure, place)


class Probabilities:
    """Probabilities of the contexts, a row each, the darker the likelier; the true context as a red line."""

    def __init__(self, known: Contexts, episode: Episode, figure: Figure | SubFigure, place: SubplotSpec):
        """Draw the axes."""
        axes = figure.add_subplot(place)
        self._believed, self._truth = np.asarray(episode.believed).T, np.asarray(episode.truth, float)
        count, steps = self._believed.shape
        extent = (-0.5, steps - 0.5, count - 0.5, -0.5)
        shown = np.full((count, steps), np.nan)
        self._image = axes.imshow(
            shown, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="none", extent=extent
        )
        self._line = axes.plot([], [], color=TRUE, linewidth=1.5, drawstyle="steps-mid", **DOTS)[0]
        axes.set_yticks(range(count), known.names)
        self._time = TimeMarks(axes, episode)

    def show(self, step: int) -> None:
        """Up to a step."""
        before = np.arange(len(self._truth)) <= step
        self._image.set_data(np.where(before, self._believed, np.nan))
        self._line.set_data(np.flatnonzero(before), self._truth[before])
        self._time.show(step)


class Numbers:
    """Each feature of the context over time: what is believed with one deviation around it, the truth in red."""

    def __init__(self, known: Contexts, episode: Episode, figure: Figure | SubFigure, place: SubplotSpec):
        """Draw the axes."""
        believed = episode.believed
        assert isinstance(believed, Gaussian)  # of contexts that are not finitely many
        self._mean, self._truth = np.asarray(believed.mean), np.asarray(episode.truth)
        self._deviation = np.exp(0.5 * np.asarray(believed.log_variance))
        grid = place.subgridspec(len(known.names), 1, hspace=0.1)
        self._times, self._bands, self._lines, self._truths = [], [], [], []
        for row, name in enumerate(known.names):
            axes = figure.add_subplot(grid[row])
            axes.set_ylim(*self._limits(row))
            axes.set_ylabel(name, fontsize=SMALL)
            self._bands.append(axes.fill_between([], [], color=BELIEVED, alpha=0.25, linewidth=0))
            self._lines.append(axes.plot([], [], color=BELIEVED, linewidth=1.5)[0])
            self._truths.append(axes.plot([], [], color=TRUE, linewidth=1.5, drawstyle="steps-mid", **DOTS)[0])
            self._times.append(TimeMarks(axes, episode, labelled=row == len(known.names) - 1))

    def _limits(self, row: int) -> tuple[float, float]:
        """All of the truth, and the band but for a few steps."""
        truth, mean, deviation = self._truth[:, row], self._mean[:, row], self._deviation[:, row]
        low = min(truth.min(), np.quantile(mean - deviation, UNSEEN))
        high = max(truth.max(), np.quantile(mean + deviation, 1 - UNSEEN))
        margin = MARGIN * (high - low)
        return low - margin, high + margin

    def show(self, step: int) -> None:
        """Up to a step."""
        steps = np.arange(step + 1)
        for row, time in enumerate(self._times):
            mean, deviation = self._mean[: step + 1, row], self._deviation[: step + 1, row]
            self._bands[row].set_data(steps, mean - deviation, mean + deviation)
            self._lines[row].set_data(steps, mean)
            self._truths[row].set_data(steps, self._truth[: step + 1, row])
            time.show(step)


class Limbs:
    """Probabilities of the places on both limbs before one step; the itch as a red disc."""

    def __init__(self, episode: Episode, figure: Figure | SubFigure, place: SubplotSpec):
        """Draw the axes."""
        self._believed = np.asarray(episode.believed).reshape(-1, len(LIMBS), ALONG, AROUND)
        self._itch = episode.states.context
        self._heatmaps, self._marks = [], []
        grid = place.subgridspec(1, len(LIMBS))
        for limb, name in enumerate(LIMBS):
            axes = figure.add_subplot(grid[limb])
            nothing, extent = np.zeros((ALONG, AROUND)), (-90, 90, 1, 0)
            self._heatmaps.append(axes.imshow(nothing, cmap="Blues", vmin=0, vmax=1, extent=extent, aspect="auto"))
            self._marks.append(axes.plot([], [], "o", color=TRUE, markersize=7)[0])
            axes.set(xticks=[-90, 0, 90], yticks=[0, 1])
            axes.set_title(name.replace("_", " "), fontsize=SMALL)
            axes.tick_params(labelsize=SMALLER)
            axes.set_ylabel("" if limb else "along", fontsize=SMALL)

    def show(self, step: int) -> None:
        """One step."""
        for limb, (heatmap, mark) in enumerate(zip(self._heatmaps, self._marks, strict=True)):
            heatmap.set_data(self._believed[step, limb])
            itches = int(self._itch.limb[step]) == limb
            mark.set_data([np.degrees(self._itch.angle[step])] * itches, [self._itch.along[step]] * itches)


class TimeMarks:
    """Switches as dotted lines, boundaries that the agent predicted as triangles, and the step that it is."""

    def __init__(self, axes: Axes, episode: Episode, labelled: bool = True):
        """Draw none yet; with `labelled` the axis of time has numbers and a name."""
        self._switches = np.flatnonzero(episode.switched)
        self._boundaries = np.flatnonzero(episode.boundary)
        marks = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        self._lines = [axes.axvline(step - 0.5, color=TRUE, linestyle=":", linewidth=1) for step in self._switches]
        self._triangles = axes.plot([], [], "v", color="black", markersize=4, **marks)[0]
        self._triangles.set_in_layout(False)  # without points it has no size, at which a layout stumbles
        self._now = axes.axvline(-0.5, color=NOW, linewidth=1)
        axes.set_xlim(-0.5, len(episode.reward) - 0.5)
        axes.tick_params(labelsize=SMALLER, labelbottom=labelled)
        if labelled:
            axes.set_xlabel("step", fontsize=SMALL)

    def show(self, step: int) -> None:
        """Those up to a step."""
        for line, switch in zip(self._lines, self._switches, strict=True):
            line.set_visible(bool(switch <= step))
        predicted = self._boundaries[self._boundaries <= step]
        self._triangles.set_data(predicted, np.ones(len(predicted)))
        self._now.set_xdata([step, step])
