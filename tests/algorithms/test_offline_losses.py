"""Losses of the offline learners against NumPy, in loops."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynamite_jax.algorithms import offline_losses as losses

WEIGHT: Any = np.array([1.0, 1.0, 0.0, 1.0])
COUNTED = [0, 1, 3]


def numbers(*shape, seed=0) -> Any:
    return np.random.default_rng((seed, *shape)).normal(size=shape)


def test_targets_have_no_future_where_the_task_ended():
    target = losses.target(jnp.array([1.0, 1.0]), jnp.array([10.0, np.nan]), jnp.array([False, True]), 0.9)
    np.testing.assert_allclose(target, [10.0, 1.0], rtol=1e-6)


def test_squared_errors_are_of_all_critics_and_of_steps_that_count():
    q, wanted = numbers(2, 4), numbers(4)
    expected = sum(sum((q[c, b] - wanted[b]) ** 2 for c in range(2)) for b in COUNTED) / 3
    assert float(losses.squared_error(q, wanted, WEIGHT)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("level", [0.5, 0.7, 0.9])
def test_the_expectile_loss_weighs_what_lies_above(level):
    value, q = numbers(4), numbers(4, seed=1)
    parts = [(level if q[b] > value[b] else 1 - level) * (q[b] - value[b]) ** 2 for b in COUNTED]
    assert float(losses.expectile(value, q, WEIGHT, level)) == pytest.approx(np.mean(parts), rel=1e-5)


def test_the_expectile_loss_is_least_at_the_expectile():
    # Of values 0 and 1, half each, the expectile is the level itself.
    q, weight = jnp.array([0.0, 1.0]), jnp.ones(2)
    gradient = jax.grad(lambda v: losses.expectile(jnp.full(2, v), q, weight, 0.8))
    assert float(gradient(0.8)) == pytest.approx(0.0, abs=1e-6)


def test_actions_are_imitated_by_their_advantage_up_to_a_bound():
    weights = losses.advantage_weights(jnp.array([-1.0, 0.0, 2.0, 1000.0]), 3.0, 500.0)
    np.testing.assert_allclose(weights, [math.exp(-3), 1.0, math.exp(6), 500.0], rtol=1e-5)


def test_imitation_weighs_log_probabilities_and_moves_no_advantage():
    log_prob, imitated = numbers(4), abs(numbers(4, seed=1))
    expected = -np.mean([imitated[b] * log_prob[b] for b in COUNTED])
    assert float(losses.imitation(log_prob, imitated, WEIGHT)) == pytest.approx(expected, rel=1e-5)
    moved = jax.grad(lambda x: losses.imitation(jnp.asarray(log_prob), x, WEIGHT))(jnp.asarray(imitated))
    assert not moved.any()


def test_td3_bc_weighs_q_in_its_own_size_against_the_distance_to_recorded_actions():
    q, action, recorded = numbers(4), numbers(4, 2), numbers(4, 2, seed=1)
    size = np.mean([abs(q[b]) for b in COUNTED])
    parts = [np.mean((action[b] - recorded[b]) ** 2) - 2.5 * q[b] / size for b in COUNTED]
    assert float(losses.td3_bc(q, action, recorded, WEIGHT, 2.5)) == pytest.approx(np.mean(parts), rel=1e-5)
    # The size is a unit and no part of what is learnt: the gradient is that of q alone.
    gradient = jax.grad(lambda q: losses.td3_bc(q, jnp.asarray(action), recorded, WEIGHT, 2.5))(jnp.asarray(q))
    np.testing.assert_allclose(gradient, -2.5 / size * WEIGHT / 3, rtol=1e-5)


def test_conservatism_compares_the_log_sum_over_actions_with_the_recorded_one():
    others, q = numbers(2, 5, 4), numbers(2, 4)
    parts = [sum(math.log(np.exp(others[c, :, b]).sum()) - q[c, b] for c in range(2)) for b in COUNTED]
    assert float(losses.conservatism(others, q, WEIGHT)) == pytest.approx(np.mean(parts), rel=1e-5)


def test_a_soft_policy_is_worth_its_q_and_its_entropy():
    log_prob, q = numbers(4), numbers(4, seed=1)
    expected = np.mean([0.1 * log_prob[b] - q[b] for b in COUNTED])
    assert float(losses.soft_policy(log_prob, q, WEIGHT, 0.1)) == pytest.approx(expected, rel=1e-5)
    logits, q = numbers(3, 4), numbers(3, 4, seed=1)
    probability = np.exp(logits) / np.exp(logits).sum(0)
    parts = [sum(p * (0.1 * math.log(p) - v) for p, v in zip(probability[:, b], q[:, b], strict=True)) for b in COUNTED]
    value = losses.soft_policy(jnp.log(probability), jnp.asarray(q), WEIGHT, 0.1)
    assert float(value) == pytest.approx(np.mean(parts), rel=1e-5)


def test_of_all_soft_policies_the_boltzmann_one_is_best():
    q, weight = jnp.array([[1.0], [0.0], [-2.0]]), jnp.ones(1)
    gradient = jax.grad(lambda logits: losses.soft_policy(jax.nn.log_softmax(logits, axis=0), q, weight, 0.5))
    np.testing.assert_allclose(gradient(q / 0.5), jnp.zeros((3, 1)), atol=1e-6)
