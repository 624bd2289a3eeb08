"""Environments by name; what can't be an environment is refused in one line."""

import dataclasses
import re
import subprocess
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynamite_envs import probes, registry
from dynamite_envs.errors import UserError

NAMES = sorted(registry.MAKERS)
NAN, INF = float("nan"), float("inf")


def refusal(name: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        registry.make(name, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_float32_arrays_and_what_shapes_the_program_is_static(name):
    env = registry.make(name)
    for field in dataclasses.fields(env):
        value = getattr(env, field.name)
        if field.metadata.get("pytree_node", True):
            assert isinstance(value, jax.Array), field.name
            assert (value.dtype, value.weak_type) == (jnp.float32, False), field.name
        else:
            assert not isinstance(value, (float, jax.Array, np.ndarray)), field.name
            hash(value)


@pytest.mark.parametrize("name", NAMES)
def test_options_replace_the_defaults(name):
    env = registry.make(name, p=0.25, horizon=7)
    assert (float(env.p), env.horizon) == (0.25, 7)
    assert env.p is not registry.make(name).p


@pytest.mark.parametrize("name", NAMES)
def test_every_environment_starts_and_steps(name):
    env = registry.make(name)
    state = jax.eval_shape(lambda key: env.step(env.reset(key), env.action_space.zeros(())), jax.random.key(0))
    assert state.obs.shape == (env.observation_size,)
    assert (state.reward.shape, state.reward.dtype) == ((), jnp.float32)
    features = jax.eval_shape(lambda key: env.context_features(env.reset(key).context), jax.random.key(0))
    assert features.ndim == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_step_keeps_shapes_and_types_so_that_it_can_be_scanned(name):
    env = registry.make(name)
    start = jax.eval_shape(env.reset, jax.random.key(0))
    after = jax.eval_shape(env.step, start, env.action_space.zeros(()))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), start) == jax.tree.map(lambda x: (x.shape, x.dtype), after)


@pytest.mark.parametrize(("wrong", "near"), [("gridwrold", "gridworld"), ("probe_mach", "probe_match")])
def test_an_unknown_environment_is_answered_with_the_nearest_name(wrong, near):
    message = refusal(wrong)
    assert repr(wrong) in message
    assert f"did you mean {near!r}?" in message
    assert all(name in message for name in NAMES)


def test_a_name_like_no_other_is_answered_with_all_names():
    message = refusal("zzz")
    assert "did you mean" not in message
    assert all(name in message for name in NAMES)


@pytest.mark.parametrize(
    ("name", "wrong", "near"),
    [("gridworld", "swp", "swap"), ("gridworld", "kernal", "kernel"), ("point_robot", "goal", "goals")],
)
def test_an_unknown_option_is_answered_with_the_nearest_one(name, wrong, near):
    message = refusal(name, **{wrong: 1})
    assert repr(wrong) in message
    assert f"did you mean {near!r}?" in message
    assert "horizon" in message


def test_an_option_of_another_environment_is_unknown():
    assert "'swap'" in refusal("point_robot", swap=0.5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [-0.1, 1.5, NAN, INF, "often", None, [0.1, 0.2]])
def test_p_must_be_a_probability(name, value):
    message = refusal(name, p=value)
    assert name in message and "p" in message
    shown = "0.1, 0.2" if isinstance(value, list) else f"{value:.4}" if isinstance(value, float) else str(value)
    assert shown in message


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_p_may_be_zero_or_one(value):
    assert float(registry.make("gridworld", p=value).p) == value


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -3, 2.5, 20.0, True, "long", None])
def test_the_horizon_must_be_a_whole_number_of_at_least_one(name, value):
    message = refusal(name, horizon=value)
    assert f"horizon of {name} is {value!r}" in message
    assert "at least 1" in message


@pytest.mark.parametrize(
    "kernel",
    [
        [[0.5, 0.6], [0.5, 0.5]],
        [[1.5, -0.5], [0.5, 0.5]],
        [[0.5, 0.5]],
        [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]],
        [[0.4, 0.3, 0.3], [0.4, 0.3, 0.3]],
        [0.5, 0.5],
        0.5,
        [[0.5, 0.5], [1.0]],
        "uniform",
        None,
    ],
)
def test_the_kernel_must_hold_one_distribution_for_each_context(kernel):
    for name in ("gridworld", "probe_match"):
        message = refusal(name, kernel=kernel)
        assert "kernel" in message and name in message


@pytest.mark.parametrize("value", [NAN, INF])
def test_the_kernel_must_be_finite(value):
    message = refusal("gridworld", kernel=[[value, 0.5], [0.5, 0.5]])
    assert "kernel of gridworld is" in message and str(value) in message and "finite" in message


@pytest.mark.parametrize("initial", [[0.5, 0.6], [1.2, -0.2], [1.0], [0.2, 0.3, 0.5], [[0.5, 0.5]], [], 0.5])
def test_the_first_context_must_have_a_distribution(initial):
    message = refusal("gridworld", initial=initial)
    assert "gridworld" in message
    assert "initial" in message or "kernel" in message  # one does not fit the other


@pytest.mark.parametrize("value", [-0.1, 1.1, NAN])
@pytest.mark.parametrize(("name", "option"), [("gridworld", "swap"), ("point_robot", "advance")])
def test_the_probabilities_that_make_a_kernel_are_checked(name, option, value):
    message = refusal(name, **{option: value})
    assert option in message and str(value) in message


@pytest.mark.parametrize("field", ["active_reward", "inactive_reward", "step_reward"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_rewards_must_be_finite(field, value):
    assert f"{field} of gridworld is {value}; it must be finite" in refusal("gridworld", **{field: value})


def test_a_number_too_large_for_float32_is_refused_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "active_reward" in refusal("gridworld", active_reward=1e39)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("gridworld", "cells", 2.5),
        ("gridworld", "cells", "5"),
        ("gridworld", "reset_on_switch", 1),
        ("probe_match", "match", "yes"),
    ],
)
def test_a_value_of_another_type_is_refused(name, field, value):
    assert re.search(rf"{field}( of {name})? is {re.escape(repr(value))}; it must be", refusal(name, **{field: value}))


@pytest.mark.parametrize(("field", "value"), [("active_reward", "high"), ("step_reward", None), ("swap", "often")])
def test_a_value_that_is_no_number_is_refused(field, value):
    message = refusal("gridworld", **{field: value})
    assert field in message and repr(value) in message


# -- values that would make an environment without meaning --------------------------------------------------------


@pytest.mark.parametrize("cells", [1, 0, -2])
def test_a_grid_must_have_room_for_two_goals(cells):
    message = refusal("gridworld", cells=cells)
    assert "cells" in message and str(cells) in message


@pytest.mark.parametrize("goals", [1, 0, -2, True, 2.5])
def test_a_semicircle_must_have_two_goals_or_more(goals):
    message = refusal("point_robot", goals=goals)
    assert "goals" in message and str(goals) in message


@pytest.mark.parametrize("name", ["gridworld", "probe_memory"])
def test_an_environment_of_two_contexts_takes_no_third(name):
    refusal(name, initial=[0.2, 0.3, 0.5], kernel=np.full((3, 3), 1 / 3).tolist())


@pytest.mark.parametrize("field", ["active_reward", "inactive_reward", "step_reward"])
def test_a_reward_is_one_number(field):
    assert field in refusal("gridworld", **{field: [1.0, 2.0]})


@pytest.mark.parametrize("value", [3, "yes"])
def test_a_switch_is_true_or_false(value):
    assert "iid" in refusal("point_robot", iid=value)


# -- names without what they name, and names of one's own ----------------------------------------------------------


def test_names_are_listed_without_jax_or_mujoco():
    """And an environment without physics is made without MuJoCo."""
    heavy = "{name for name in ('jax', 'flax', 'mujoco', 'warp') if name in sys.modules}"
    lines = [
        "import sys",
        "from dynamite_envs import registry",
        f"print(len(registry.MAKERS), {heavy})",
        "registry.make('gridworld'), registry.make('point_robot'), registry.make('probe_match')",
        f"print(sorted({heavy}))",
    ]
    output = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == [f"{len(NAMES)} set()", "['flax', 'jax']"]


@pytest.fixture
def names(monkeypatch):
    monkeypatch.setattr(registry, "MAKERS", dict(registry.MAKERS))


def test_an_environment_of_ones_own_is_made_and_checked_like_any_other(names):
    def easy(**fields: Any) -> probes.ContextBandit:
        return probes.match(**{"horizon": 4, **fields})

    registry.register("probe_easy", easy)
    registry.register("probe_easy", easy)  # as where a module is run twice
    env = registry.make("probe_easy", p=0.5)
    assert (env.horizon, float(env.p)) == (4, 0.5)
    assert "horizon of probe_easy is 0" in refusal("probe_easy", horizon=0)
    assert "did you mean 'probe_easy'?" in refusal("probe_eazy")


@pytest.mark.parametrize("name", ["gridworld", "probe_match"])
def test_a_name_that_is_taken_is_refused(name, names):
    with pytest.raises(UserError, match=f"env is '{name}', which is taken"):
        registry.register(name, probes.static)
    assert registry.make(name).p != 0
