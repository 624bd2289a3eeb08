"""The animation of ScratchItch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from conftest import tiny_config
from dynamite_envs import registry
from dynamite_envs.scratch_itch.env import Itch, ScratchItch
from dynamite_jax.analysis import animation
from dynamite_jax.commands import animate
from dynamite_jax.runtime import training


def test_every_place_has_a_bin_of_its_limb():
    limb, along, angle = jnp.meshgrid(jnp.arange(2.0), jnp.linspace(0, 1, 13), jnp.linspace(-1, 1, 13) * jnp.pi / 2)
    bins = np.asarray(animation.bins(Itch(limb, along, angle)))
    assert set(bins.ravel()) == set(range(2 * animation.ALONG * animation.AROUND))

    def place(*itch):
        return int(animation.bins(Itch(*map(jnp.float32, itch))))

    assert place(0, 0.0, -1.5) == 0 and place(0, 1.0, 1.5) == animation.ALONG * animation.AROUND - 1
    assert place(1, 0.0, -1.5) == animation.ALONG * animation.AROUND and place(0, 0.2, 0.0) == animation.AROUND + 1


def test_an_animation_shows_the_arm_the_itch_and_the_belief(tmp_path):
    env = registry.make("scratch_itch")
    assert isinstance(env, ScratchItch)
    state = env.reset(jax.random.key(0))
    states = jax.tree.map(lambda x: jnp.stack([x] * 7), state)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(36), 6).reshape(6, 2, animation.ALONG, animation.AROUND)
    out = tmp_path / "a.gif"
    animation.animate(env, states=states, reward=np.zeros(6), probabilities=probabilities, out=out, every=2)
    with Image.open(tmp_path / "a.gif") as picture:
        assert getattr(picture, "n_frames", 1) == 3


def test_the_itch_is_marked_on_its_limb_where_it_is(tmp_path):
    env = registry.make("scratch_itch")
    assert isinstance(env, ScratchItch)
    state = env.reset(jax.random.key(0))

    def marked(limb: float, along: float) -> np.ndarray:
        itch = Itch(jnp.float32(limb), jnp.float32(along), jnp.float32(0.0))
        states = jax.tree.map(lambda x: jnp.stack([x] * 2), state.replace(context=itch))
        probabilities = np.zeros((1, 2, animation.ALONG, animation.AROUND))
        out = tmp_path / "a.gif"
        animation.animate(env, states=states, reward=np.zeros(1), probabilities=probabilities, out=out, every=1)
        with Image.open(tmp_path / "a.gif") as picture:
            red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB")).astype(int), -1, 0)
        row, column = np.nonzero((red > 180) & (green < 90) & (blue < 90))
        panels = column > 0.62 * red.shape[1]  # right of the picture of the arm
        assert panels.sum() > 10
        return np.array([row[panels].mean(), column[panels].mean()])

    upper, lower, farther = marked(0, 0.2), marked(1, 0.2), marked(1, 0.8)
    assert lower[1] - upper[1] > 40 and abs(lower[0] - upper[0]) < 3
    assert farther[0] - lower[0] > 40 and abs(farther[1] - lower[1]) < 3


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--out a.png", "out is 'a.png'; its name must end in .gif"),
        ("--every 0", "every is 0; it must be 1 or more"),
        ("--seed 9", "of probe_match; it must be of scratch_itch"),
    ],
)
def test_what_can_not_be_animated_is_one_line(flags, message, tmp_path, monkeypatch, capsys):
    training.train(tiny_config("probe_match", "markov", steps=160, chunk=1), tmp_path / "run")
    monkeypatch.setattr("sys.argv", ["animate", "--run", str(tmp_path / "run"), *flags.split()])
    with pytest.raises(SystemExit) as stop:
        animate.main()
    assert stop.value.code == 2 and message in capsys.readouterr().err
