"""What is taken down of an episode to look at."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import build, tiny_config
from dynamite_envs import registry
from dynamite_envs.reacher import ARM, Reacher
from dynamite_envs.scratch_itch.env import Itch
from dynamite_jax.analysis import readout, viewing
from dynamite_jax.data.types import Gaussian


@cache
def recorded(method: str) -> viewing.Episode:
    program, states = build(tiny_config("gridworld", method, env_options={"horizon": 12, "p": 0.3}))
    params = jax.tree.map(lambda x: x[0], program.algorithm.agent_params(states))
    episode, length = jax.jit(partial(viewing.record, program.env, program.agent))(params, jax.random.key(3))
    assert length == 12
    return episode


def test_every_place_has_a_bin_of_its_limb():
    limb, along, angle = jnp.meshgrid(jnp.arange(2.0), jnp.linspace(0, 1, 13), jnp.linspace(-1, 1, 13) * jnp.pi / 2)
    bins = np.asarray(viewing.itch_bins(Itch(limb, along, angle)))
    assert set(bins.ravel()) == set(range(2 * viewing.ALONG * viewing.AROUND))

    def place(*itch):
        return int(viewing.itch_bins(Itch(*map(jnp.float32, itch))))

    assert place(0, 0.0, -1.5) == 0 and place(0, 1.0, 1.5) == viewing.ALONG * viewing.AROUND - 1
    assert place(1, 0.0, -1.5) == viewing.ALONG * viewing.AROUND and place(0, 0.2, 0.0) == viewing.AROUND + 1


@pytest.mark.parametrize(
    ("env", "names", "finite"),
    [
        ("gridworld_ring4", ("goal 0", "goal 1", "goal 2", "goal 3"), True),
        ("probe_match", ("context 0", "context 1"), True),
        ("halfcheetah_vel_wind", ("speed, m/s", "wind, N"), False),
        ("ant_dir", ("direction, cosine", "direction, sine"), False),
        ("ant_goal", ("goal x, m", "goal y, m"), False),
        ("reacher", ("goal x, m", "goal y, m"), False),
    ],
)
def test_contexts_have_names(env, names, finite):
    assert viewing.contexts(registry.make(env)) == (names, finite)


def test_a_subclass_with_other_features_has_names_of_its_own():
    class Moving(Reacher):
        def context_features(self, context):
            return jnp.concatenate([context, jnp.zeros(1)])

    env = Moving(simulator=ARM.run_by("auto", None), p=0.1, horizon=5)
    assert viewing.contexts(env).names == ("context 0", "context 1", "context 2")


def test_agents_meet_the_same_contexts_and_starts():
    one, other = recorded("dynamite"), recorded("markov")
    np.testing.assert_array_equal(one.truth, other.truth)
    np.testing.assert_array_equal(one.states.physics.goals, other.states.physics.goals)
    np.testing.assert_array_equal(one.states.physics.agent[0], other.states.physics.agent[0])
    assert one.switched.any() and not np.array_equal(one.states.physics.agent, other.states.physics.agent)


def test_an_episode_is_what_was_played():
    episode = recorded("dynamite")
    np.testing.assert_array_equal(episode.truth, episode.states.context[:-1])
    np.testing.assert_array_equal(np.cumsum(episode.switched), episode.states.session[:-1])
    np.testing.assert_allclose(episode.states.reward[1:], episode.reward)
    assert episode.length == 12 and episode.believed.shape == (12, 2)
    assert episode.held_out.features.shape == (12, 64, 4) and episode.held_out.truth.shape == (12, 64)
    assert episode.held_out.valid.all()


def test_beliefs_are_those_that_led_to_the_actions():
    """The features of the episode among those of the others, and of the states that are encoded again."""
    program, _ = build(tiny_config("gridworld", "dynamite", env_options={"horizon": 12, "p": 0.3}))
    episode = recorded("dynamite")
    again = program.agent.belief.features(episode.belief)
    np.testing.assert_allclose(again, episode.held_out.features[:, -1], atol=1e-5)
    assert np.std(again) > 0.01


def test_a_context_that_is_observed_is_read_off():
    episode = recorded("oracle")
    believed = np.asarray(episode.believed)
    assert believed[np.arange(12), np.asarray(episode.truth)].min() > 0.98
    assert episode.held_out.features.shape[-1] == 0


def test_numbers_are_read_off_with_the_deviation_of_what_is_left():
    """y = 3 x_0 + e, where e has the deviation |x_1|: mean and deviation are known at every point."""
    key, noise, reader = jax.random.split(jax.random.key(0), 3)
    features = jax.random.uniform(key, (50, 200, 2), minval=0.5, maxval=2.0)
    values = 100.0 + 3.0 * features[..., :1] + features[..., 1:] * jax.random.normal(noise, (50, 200, 1))
    belief = jax.jit(readout.numbers)(features, values, jnp.ones((50, 200), bool), reader)
    assert isinstance(belief, Gaussian) and belief.mean.shape == (50, 50, 1)
    held_out = np.asarray(features[:, 150:])
    np.testing.assert_allclose(belief.mean[..., 0], 100.0 + 3.0 * held_out[..., 0], atol=0.6)
    deviation = np.exp(0.5 * np.asarray(belief.log_variance[..., 0]))
    assert np.abs(deviation / held_out[..., 1] - 1.0).mean() < 0.1


def test_steps_behind_the_end_are_not_learnt_from():
    key, reader = jax.random.split(jax.random.key(0))
    features = jax.random.uniform(key, (50, 100, 1))
    valid = jnp.arange(50)[:, None] < jnp.where(jnp.arange(100) % 2, 10, 50)
    label = jax.nn.one_hot((features[..., 0] > 0.5).astype(int), 2)
    zero = jnp.where(valid[..., None], features, 0.9)  # what lies there says the opposite
    fitted = jax.jit(readout.probabilities)(zero, jnp.where(valid[..., None], label, 0.0), reader)
    held_out, right = valid[:, 75:], label[:, 75:]
    clear = held_out & (jnp.abs(features[:, 75:, 0] - 0.5) > 0.05)
    assert jnp.abs(fitted - right)[clear].max() < 0.1
    numbers = jnp.where(valid[..., None], features, 1000.0)
    belief = jax.jit(readout.numbers)(zero, numbers, valid, reader)
    assert jnp.abs(belief.mean - features[:, 75:])[held_out].mean() < 20.0 < 1000.0 * 0.4  # deviations are of all


def test_the_reader_is_told_nothing_of_steps_behind_the_end(monkeypatch):
    monkeypatch.setattr(readout, "UPDATES", 20)
    program, states = build(tiny_config("probe_termination", env_options={"end": 0.3}))
    params = jax.tree.map(lambda x: x[0], program.algorithm.agent_params(states))
    learnt, read = [], readout.probabilities

    def noted(features, labels, key):
        learnt.append(labels)
        return read(features, labels, key)

    monkeypatch.setattr(readout, "probabilities", noted)
    episode, _ = viewing.record(program.env, program.agent, params, jax.random.key(2))
    labelled = np.asarray(learnt[0]).sum(-1)[:, -64:]
    np.testing.assert_array_equal(labelled, episode.held_out.valid)
    assert labelled.min() == 0.0 and labelled.max() == 1.0


def test_an_episode_is_cut_where_the_task_ends(monkeypatch):
    monkeypatch.setattr(readout, "UPDATES", 20)
    program, states = build(tiny_config("probe_termination", env_options={"end": 0.3}))
    params = jax.tree.map(lambda x: x[0], program.algorithm.agent_params(states))
    played, length = jax.jit(partial(viewing.record, program.env, program.agent))(params, jax.random.key(2))
    assert 0 < length < played.length
    episode = viewing.until(played, int(length))
    leaves = jax.tree.leaves((episode.believed, episode.belief, episode.truth, episode.boundary, episode.switched))
    assert {len(leaf) for leaf in leaves} == {episode.length} == {int(length)}
    assert len(episode.states.obs) == length + 1
    assert episode.states.terminated.tolist() == [False] * int(length) + [True]
    valid = np.asarray(episode.held_out.valid)
    features = np.abs(np.asarray(episode.held_out.features)).sum(-1)
    assert 0.05 < valid.mean() < 0.9 and features[valid].all()
