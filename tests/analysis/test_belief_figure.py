"""Pictures of beliefs: what is computed for them, and that they are drawn."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread

from conftest import build, tiny_config
from dynamite_envs import registry
from dynamite_envs.wrappers import ObserveContext
from dynamite_jax import config as configs
from dynamite_jax.analysis import belief_figure, readout, reward_maps, viewing
from dynamite_jax.beliefs.segments import SegmentBelief, SegmentState
from dynamite_jax.commands import beliefs
from dynamite_jax.runtime import training


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Readers that learn nothing, where what is read is not looked at."""
    monkeypatch.setattr(readout, "UPDATES", 20)


# -- places and the reward there ----------------------------------------------------------------------------------


def test_a_grid_has_its_cells_with_y_upwards():
    env = registry.make("gridworld")
    physics = env.reset(jax.random.key(0)).physics
    places = reward_maps.places(ObserveContext.of(env), physics)
    assert places is not None and places.extent == (-0.5, 4.5, -0.5, 4.5) and places.reached.all()
    expected = env.observe(physics.replace(agent=jnp.array([1, 3])))
    np.testing.assert_array_equal(places.observation[3, 1], expected)


def test_a_plane_has_its_places_with_y_upwards():
    env = registry.make("point_robot")
    places = reward_maps.places(env, jnp.zeros(2))
    assert places is not None and places.reached.all()
    np.testing.assert_allclose(places.observation[0, -1], [1.6, -1.6], rtol=1e-6)
    np.testing.assert_allclose(places.observation[20, 10], [-0.8, 0.0], atol=1e-6)


def test_an_arm_is_brought_to_every_place_that_it_reaches():
    places = reward_maps.places(registry.make("reacher"), None)
    assert places is not None and places.extent == pytest.approx((-0.21, 0.21, -0.21, 0.21))
    side = np.linspace(-0.21, 0.21, reward_maps.FINE)
    x, y = np.meshgrid(side, side)
    distance, reached = np.hypot(x, y), np.asarray(places.reached)
    clear = np.abs(distance - 0.21) > 1e-4  # of rounding at the rim
    np.testing.assert_array_equal(reached[clear], ((distance < 0.21) & (distance > 0.01))[clear])
    tip = np.asarray(places.observation[..., -2:])
    np.testing.assert_allclose(tip[reached], np.stack([x, y], -1)[reached], atol=2e-4)


def test_an_environment_without_a_plane_has_no_places():
    assert reward_maps.places(registry.make("probe_match"), None) is None


@pytest.mark.parametrize(
    ("env", "place", "moved", "best"),
    [
        ("gridworld", lambda env, physics: physics.agent, lambda physics, xy: physics.replace(agent=xy), 1.0),
        ("point_robot", lambda env, physics: physics, lambda physics, xy: xy, 0.0),
        ("reacher", lambda env, physics: env.tip(physics), None, None),
    ],
)
def test_marks_are_where_agent_and_goal_are(env, place, moved, best):
    """An agent that stands on the goal is paid most."""
    env = registry.make(env)
    state = env.reset(jax.random.key(1))
    if best is not None:
        state = state.replace(context=jnp.int32(1))
    agent, goal = reward_maps.marks(ObserveContext.of(env), state)
    np.testing.assert_array_equal(agent, place(env, state.physics))
    if moved is None:
        np.testing.assert_array_equal(goal, state.context)
        return
    still = env.action_space.zeros(())
    reward = env.dynamics(moved(state.physics, goal), state.context, still, jax.random.key(0))[1]
    assert float(reward) == pytest.approx(best)


def test_goals_that_a_switch_draws_anew_are_those_of_the_map():
    env = registry.make("gridworld", reset_on_switch=True)
    one, other = (env.reset(jax.random.key(seed)).physics for seed in (0, 1))
    places = [reward_maps.places(env, physics) for physics in (one, other)]
    assert places[0] and places[1] and not np.array_equal(places[0].observation, places[1].observation)


def test_the_reward_is_decoded_where_it_is_expected():
    """The map is that of the decoder for each observation, and nothing where nobody gets."""
    program, states = build(tiny_config("point_robot", num_envs=8, env_options={"horizon": 10}))
    params = jax.tree.map(lambda x: x[0], program.algorithm.agent_params(states))
    agent, belief = program.agent, program.agent.belief.initial(())
    places = reward_maps.places(program.env, jnp.zeros(2))
    assert places is not None
    places = places._replace(reached=places.reached.at[0, 0].set(False))
    key = jax.random.key(5)
    found = np.asarray(reward_maps.expected(agent, params, belief, places, key))
    assert np.isnan(found[0, 0]) and np.isfinite(found).sum() == found.size - 1
    observation = places.observation[4, 7][None]
    summary = agent.belief.summary(belief)
    (expected,) = agent.expected_reward(params, summary, key, observation, jnp.zeros((1, 2)), observation)
    assert found[4, 7] == pytest.approx(float(expected), rel=1e-4) and np.nanstd(found) > 1e-4


# -- what is computed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (2,)])
def test_steps_before_the_ends_of_episodes_are_shown(shape):
    """The context, or its first feature, beside the features that go with it."""
    number = np.arange(200.0).reshape(20, 10)
    valid = np.arange(20)[:, None] < np.arange(10) + 5
    truth = np.broadcast_to(number.reshape(20, 10, *[1] * len(shape)), (20, 10, *shape))
    fields: Any = {"features": np.stack([number, -number], -1), "valid": valid, "truth": truth}
    features, context = belief_figure.some_steps(viewing.HeldOut(**fields))
    assert sorted(context) == sorted(number[valid]) and len(set(context)) == valid.sum()
    np.testing.assert_array_equal(features, np.stack([context, -context], -1))


def test_components_are_those_of_largest_variance():
    """An ellipse turned by 30 degrees: its axes, and their shares of the variance."""
    rng = np.random.default_rng(0)
    along, across = 3.0 * rng.normal(size=5000), 1.0 * rng.normal(size=5000)
    turn = np.array([[np.cos(np.pi / 6), -np.sin(np.pi / 6)], [np.sin(np.pi / 6), np.cos(np.pi / 6)]])
    both, share = belief_figure.components(np.stack([along, across], -1) @ turn.T + 7.0)
    np.testing.assert_allclose(np.abs(np.corrcoef(both[:, 0], along)[0, 1]), 1.0, atol=0.01)
    np.testing.assert_allclose(both.std(0), [3.0, 1.0], rtol=0.05)
    np.testing.assert_allclose(share, [0.9, 0.1], atol=0.01)


def test_a_single_feature_is_the_first_component():
    both, share = belief_figure.components(np.array([[1.0], [3.0], [2.0]]))
    np.testing.assert_allclose(np.abs(both), [[1, 0], [1, 0], [0, 0]], atol=1e-12)
    assert share.tolist() == [1.0, 0.0]


def test_the_probability_of_a_boundary_is_that_of_a_segment_of_one_transition():
    log_weight = jnp.log(jnp.array([[0.2, 0.5, 0.3], [0.2, 0.5, 0.3], [0.9, 0.1, 0.0]]))
    length = jnp.array([[1, 4, 1], [1, 2, 1], [2, 1, 5]])
    fields: Any = {"encoded": None, "fresh": None, "observation": None}
    state = SegmentState(log_weight=log_weight, length=length, step=jnp.array([9, 2, 3]), **fields)
    probability = belief_figure.boundary_probability(SegmentBelief.__new__(SegmentBelief), state)
    assert probability is not None
    np.testing.assert_allclose(probability, [0.5, 0.0, 0.1], atol=1e-6)


@pytest.mark.parametrize("method", ["dynamite", "varibad", "rl2"])
def test_boundaries_that_are_likely_are_predicted(method):
    program, states = build(tiny_config("probe_match", method))
    params = jax.tree.map(lambda x: x[0], program.algorithm.agent_params(states))
    record, _ = jax.jit(viewing.record, static_argnums=(1,))(program.env, program.agent, params, jax.random.key(0))
    probability = belief_figure.boundary_probability(program.agent.belief, record.belief)
    if method in ("varibad", "rl2"):
        assert probability is None
        return
    assert probability is not None and record.boundary.any() and not record.boundary.all()
    np.testing.assert_array_equal(probability > 0.5, record.boundary)


@pytest.mark.parametrize(
    ("switches", "length", "steps"),
    [
        ([10, 20], 60, [19, 21, 22, 24, 29]),  # the last session is the longest
        ([10, 20], 25, [9, 11, 12, 14, 19]),
        ([58], 60, [57, 59]),
        ([], 60, [0, 2, 3, 5, 10]),
    ],
)
def test_maps_are_of_steps_around_the_switch_to_the_longest_session(switches, length, steps):
    fields: Any = dict.fromkeys(viewing.Episode.__dataclass_fields__)
    switched = np.isin(np.arange(60), switches)
    episode = viewing.Episode(**{**fields, "switched": switched[:length], "reward": np.zeros(length)})
    assert belief_figure.steps_around_a_switch(episode) == steps


# -- the command --------------------------------------------------------------------------------------------------


HEIGHT = {"dynamite": 8.2, "varibad": 7.2, "rl2": 3.1}  # inches


def looks_like(out, method):
    picture = imread(out)
    assert picture.shape[:2] == pytest.approx((HEIGHT[method] * 110, 1210), abs=2) and picture.std() > 0.1


@pytest.mark.filterwarnings("error:constrained_layout")
@pytest.mark.parametrize("method", ["varibad", "rl2"])
def test_a_belief_is_drawn_with_what_it_has(method, tmp_path):
    """`varibad` predicts no boundaries; `rl2` has no latent and no decoder either."""
    program, states = build(tiny_config("gridworld", method, env_options={"horizon": 12}))
    params = jax.tree.map(lambda x: x[0], program.algorithm.agent_params(states))
    record = jax.jit(viewing.record, static_argnums=(1,))
    episode, length = record(program.env, program.agent, params, jax.random.key(0))
    viewed = viewing.Viewed(program.env, program.agent, params, viewing.until(episode, int(length)))
    belief_figure.draw(viewed, tmp_path / "a.png", "title")
    looks_like(tmp_path / "a.png", method)


@pytest.mark.filterwarnings("error:constrained_layout")
def test_the_belief_of_a_run_is_drawn_in_its_folder(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    options = {"horizon": 12}
    training.train(tiny_config("gridworld", steps=480, chunk=1, eval_episodes=8, env_options=options), run)
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["beliefs", "--run", str(run)])
    beliefs.main()
    assert capsys.readouterr().out == f"{run / 'beliefs.png'}\n"
    looks_like(run / "beliefs.png", "dynamite")


@pytest.mark.parametrize("method", ["markov", "oracle"])
def test_a_method_without_a_belief_is_refused(method, tmp_path, refused):
    (tmp_path / "run").mkdir()
    configs.save(tiny_config("gridworld", method), tmp_path / "run" / "config.json")
    assert refused(beliefs, "--run", "run") == f"run is 'run', of {method}, which holds no belief"


def test_a_picture_of_an_unknown_kind_is_refused(refused):
    assert refused(beliefs, "--run", "run", "--out", "a.doc").startswith("out is 'a.doc'; its name must end in .")
