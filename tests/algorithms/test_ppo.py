"""Advantages and the PPO loss against the formulas, written as loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynamite_envs.spaces import Box, Discrete
from dynamite_jax.agents.distributions import policy_distribution
from dynamite_jax.algorithms import ppo
from dynamite_jax.config import PPOConfig
from dynamite_jax.data.types import Rollout

HORIZON, BATCH = 8, 4
N = 24
HYPER = PPOConfig(clip=0.2, entropy=0.07, value_weight=0.6)


def episode():
    """Rewards, values and terminations: none, one in mid-episode, one at the end, one that stays."""
    rng = np.random.default_rng(0)
    terminated = np.zeros((HORIZON, BATCH), bool)
    terminated[3, 1] = terminated[HORIZON - 1, 2] = True
    terminated[5:, 3] = True
    return rng.normal(size=(HORIZON, BATCH)), terminated, rng.normal(size=(HORIZON + 1, BATCH))


def slow_advantage(reward, terminated, value, gamma, lambda_, t):
    """Sum of (gamma lambda)^l delta_{t+l} up to the end of the episode or the first termination, of one trajectory."""
    total = 0.0
    for j in range(t, len(reward)):
        following = 0.0 if terminated[j] else value[j + 1]
        total += (gamma * lambda_) ** (j - t) * (reward[j] + gamma * following - value[j])
        if terminated[j]:
            break
    return total


def jitted_advantages(gamma, lambda_, reward=None):
    drawn, terminated, value = episode()
    reward = drawn if reward is None else reward
    return np.asarray(
        ppo.advantages(
            jnp.asarray(reward, jnp.float32), jnp.asarray(terminated), jnp.asarray(value, jnp.float32), gamma, lambda_
        )
    )


@pytest.mark.parametrize(
    "gamma, lambda_", [(0.97, 0.95), (0.97, 0.0), (0.97, 1.0), (0.0, 0.95), (1.0, 1.0), (1.0, 0.5), (0.5, 0.9)]
)
def test_advantages_are_the_discounted_sums_of_temporal_differences(gamma, lambda_):
    reward, terminated, value = episode()
    expected = [
        [slow_advantage(reward[:, e], terminated[:, e], value[:, e], gamma, lambda_, t) for e in range(BATCH)]
        for t in range(HORIZON)
    ]
    np.testing.assert_allclose(jitted_advantages(gamma, lambda_), expected, rtol=1e-5, atol=1e-5)


def test_with_lambda_1_they_are_returns_with_bootstrap_at_truncation_less_the_value():
    reward, terminated, value = episode()
    gamma = 0.9
    advantages = jitted_advantages(gamma, 1.0)
    for e in range(BATCH):
        for t in range(HORIZON):
            end = next((j for j in range(t, HORIZON) if terminated[j, e]), None)
            last = HORIZON - 1 if end is None else end
            behind = value[HORIZON, e] if end is None else 0.0
            returns = (
                sum(gamma ** (j - t) * reward[j, e] for j in range(t, last + 1)) + gamma ** (last + 1 - t) * behind
            )
            np.testing.assert_allclose(advantages[t, e], returns - value[t, e], rtol=1e-4, atol=1e-5)


def test_with_lambda_0_they_are_temporal_differences():
    reward, terminated, value = episode()
    expected = reward + 0.9 * np.where(terminated, 0.0, value[1:]) - value[:-1]
    np.testing.assert_allclose(jitted_advantages(0.9, 0.0), expected, rtol=1e-5, atol=1e-6)


def test_with_gamma_0_they_are_rewards_less_values():
    reward, _, value = episode()
    np.testing.assert_allclose(jitted_advantages(0.0, 0.95), reward - value[:-1], rtol=1e-5, atol=1e-6)


def test_nothing_behind_a_termination_reaches_what_came_before():
    reward, _, _ = episode()
    changed = reward.copy()
    changed[4:, 1] += 10.0
    before, after = jitted_advantages(0.97, 0.95), jitted_advantages(0.97, 0.95, changed)
    np.testing.assert_array_equal(before[:4, 1], after[:4, 1])
    assert np.abs(before[4:, 1] - after[4:, 1]).min() > 1.0


def test_samples_pair_each_step_with_the_value_before_it():
    reward, terminated, value = episode()
    rng = np.random.default_rng(1)
    rollout = Rollout(
        observation=jnp.zeros((HORIZON + 1, BATCH, 1)),
        action=jnp.asarray(rng.integers(0, 3, (HORIZON, BATCH))),
        reward=jnp.asarray(reward),
        terminated=jnp.asarray(terminated),
        session=jnp.zeros((HORIZON, BATCH), jnp.int32),
        features=jnp.zeros((HORIZON + 1, BATCH, 2)),
        log_prob=jnp.asarray(rng.normal(size=(HORIZON, BATCH))),
        value=jnp.asarray(value),
        boundary=jnp.zeros((HORIZON, BATCH), bool),
        valid=jnp.ones((HORIZON, BATCH), bool),
    )
    features = jnp.asarray(rng.normal(size=(HORIZON, BATCH, 2)))
    samples = ppo.samples(rollout.replace(value=(rollout.value - 3.0) / 2.0), features, rollout.value, 0.9, 0.8)
    np.testing.assert_array_equal(samples.value, (rollout.value[:HORIZON] - 3.0) / 2.0)  # in the critic's unit
    np.testing.assert_array_equal(samples.advantage, jitted_advantages(0.9, 0.8))
    np.testing.assert_allclose(samples.target, value[:HORIZON] + jitted_advantages(0.9, 0.8), rtol=1e-5, atol=1e-6)
    for name, array in (("features", features), ("action", rollout.action), ("log_prob", rollout.log_prob)):
        np.testing.assert_array_equal(getattr(samples, name), array)


def test_nothing_behind_an_end_reaches_the_samples():
    """A cleared rollout holds nothing there, whatever was recorded; what the end itself was worth stays."""
    reward, _, value = episode()
    length = np.array([8, 4, 8, 6])
    steps = np.arange(HORIZON)[:, None]
    valid = steps < length
    terminated = (steps >= length - 1) & (length < HORIZON)

    def recorded(behind: float):
        rollout = Rollout(
            observation=jnp.where(np.arange(HORIZON + 1)[:, None] <= length, 1.0, behind)[..., None],
            action=jnp.where(valid, 1, 2),
            reward=jnp.where(valid, reward, behind),
            terminated=jnp.asarray(terminated),
            session=jnp.asarray(steps + 0 * length),
            features=jnp.where(np.arange(HORIZON + 1)[:, None] <= length, 1.0, behind)[..., None],
            log_prob=jnp.where(valid, -0.5, behind),
            value=jnp.where(np.arange(HORIZON + 1)[:, None] < length + (length == HORIZON), value, behind),
            boundary=jnp.ones((HORIZON, BATCH), bool),
            valid=jnp.asarray(valid),
        ).cleared()
        return rollout, ppo.samples(rollout, rollout.features[:-1], rollout.value, 0.9, 0.8)

    clean, dirty = recorded(0.0), recorded(np.nan)
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    rollout, samples = dirty
    assert np.all(np.isfinite(samples.target))
    expected = [
        [slow_advantage(reward[:, e], terminated[:, e], value[:, e], 0.9, 0.8, t) for e in range(BATCH)]
        for t in range(HORIZON)
    ]
    np.testing.assert_allclose(samples.advantage[valid], np.array(expected)[valid], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(rollout.session, np.where(valid, steps, -1))
    np.testing.assert_array_equal(rollout.boundary, valid)
    reached = np.arange(HORIZON + 1)[:, None] <= length  # the state that the last step led to is one of the episode's
    np.testing.assert_array_equal(rollout.observation[..., 0], reached)


# -- distributions ------------------------------------------------------------------------------------------------


def slow_policy(policy, action, space):
    """Log-probability of an action and entropy, of one step."""
    if isinstance(space, Discrete):
        probability = np.exp(policy) / sum(np.exp(policy))
        return np.log(probability[action]), -sum(p * np.log(p) for p in probability)
    mean, deviation = policy[: space.size], np.exp(policy[space.size :])
    log_prob = entropy = 0.0
    for a, m, d in zip(action, mean, deviation, strict=True):
        log_prob += -((a - m) ** 2) / (2 * d**2) - np.log(d) - np.log(2 * np.pi) / 2
        entropy += np.log(d) + (1 + np.log(2 * np.pi)) / 2
    return log_prob, entropy


SPACES = [Discrete(4), Box(3)]


def outputs(space, seed=2) -> np.ndarray:
    size = space.n if isinstance(space, Discrete) else 2 * space.size
    return 0.7 * np.random.default_rng(seed).normal(size=(N, size))


def actions(space) -> np.ndarray:
    """Discrete ones, or continuous ones of which many lie beyond what the environment executes."""
    rng = np.random.default_rng(3)
    return rng.integers(0, space.n, N) if isinstance(space, Discrete) else 2.0 * rng.normal(size=(N, space.size))


@pytest.mark.parametrize("space", SPACES, ids=["discrete", "continuous"])
def test_policy_distribution_has_the_log_probabilities_and_entropy_of_the_formula(space):
    policy, action = outputs(space), actions(space)
    distribution = policy_distribution(jnp.asarray(policy, jnp.float32), space)
    slow = [slow_policy(p, a, space) for p, a in zip(policy, action, strict=True)]
    log_prob, entropy = map(np.array, zip(*slow, strict=True))
    np.testing.assert_allclose(distribution.log_prob(jnp.asarray(action)), log_prob, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(distribution.entropy(), entropy, rtol=2e-5)


def test_continuous_actions_are_neither_squashed_nor_clipped():
    policy = jnp.tile(jnp.array([3.0, -5.0, jnp.log(0.5), 0.0]), (4000, 1))
    distribution = policy_distribution(policy, Box(2))
    drawn = np.asarray(distribution.sample(seed=jax.random.key(0)))
    np.testing.assert_allclose(drawn.mean(0), [3.0, -5.0], atol=0.08)
    np.testing.assert_allclose(drawn.std(0), [0.5, 1.0], rtol=0.05)
    np.testing.assert_array_equal(distribution.mode()[0], [3.0, -5.0])


# -- loss ---------------------------------------------------------------------------------------------------------


def batch_for(space, policy):
    """Steps whose old policy differs so that ratios lie below, in and above the clip range, and values likewise.

    exp(-0.21) is in the range of 0.8 to 1.2, though the logarithm is further from 0 than 0.2.
    """
    rng = np.random.default_rng(4)
    action = actions(space)
    log_ratio = np.resize([-0.5, -0.21, 0.0, 0.1, 0.5, 0.3], N) + 0.002 * rng.normal(size=N)
    log_prob = np.array([slow_policy(p, a, space)[0] for p, a in zip(policy, action, strict=True)]) - log_ratio
    batch = ppo.Samples(
        features=jnp.zeros((N, 1)),
        action=jnp.asarray(action, jnp.int32 if isinstance(space, Discrete) else jnp.float32),
        log_prob=jnp.asarray(log_prob, jnp.float32),
        value=jnp.asarray(rng.normal(size=N), jnp.float32),
        advantage=jnp.asarray(rng.normal(size=N) + 0.4, jnp.float32),
        target=jnp.asarray(rng.normal(size=N), jnp.float32),
        valid=jnp.ones(N, bool),
    )
    value = np.asarray(batch.value) + np.resize([-0.6, -0.1, 0.1, 0.6], N)
    return batch, jnp.asarray(value, jnp.float32)


def slow_loss(policy, value, batch, space, hyper):
    """Means over the valid steps."""
    advantage, steps = np.asarray(batch.advantage, float), np.flatnonzero(batch.valid)
    count = len(steps)
    mean = sum(advantage[steps]) / count
    deviation = (sum((a - mean) ** 2 for a in advantage[steps]) / count) ** 0.5
    terms = dict.fromkeys(["policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction"], 0.0)
    if isinstance(space, Box):
        terms["action_deviation"] = sum(np.exp(policy[n, space.size :]).mean() for n in steps) / count
    for n in steps:
        log_prob, entropy = slow_policy(policy[n], np.asarray(batch.action)[n], space)
        log_ratio = log_prob - float(batch.log_prob[n])
        ratio = np.exp(log_ratio)
        normalised = (advantage[n] - mean) / deviation
        clipped = min(max(ratio, 1 - hyper.clip), 1 + hyper.clip)
        terms["policy_loss"] -= min(ratio * normalised, clipped * normalised) / count
        old, target = float(batch.value[n]), float(batch.target[n])
        moved = old + min(max(float(value[n]) - old, -hyper.clip), hyper.clip)
        terms["value_loss"] += max((float(value[n]) - target) ** 2, (moved - target) ** 2) / 2 / count
        terms["entropy"] += entropy / count
        terms["approx_kl"] += (ratio - 1 - log_ratio) / count
        terms["clip_fraction"] += (ratio < 1 - hyper.clip or ratio > 1 + hyper.clip) / count
    total = terms["policy_loss"] + hyper.value_weight * terms["value_loss"] - hyper.entropy * terms["entropy"]
    return total, terms


@pytest.mark.parametrize("space", SPACES, ids=["discrete", "continuous"])
@pytest.mark.parametrize("clip", [0.2, 0.05, 10.0])
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_loss_is_clipped_surrogate_clipped_value_error_and_entropy_of_valid_steps(space, clip, share):
    hyper, policy = HYPER.replace(clip=clip), outputs(space)
    batch, value = batch_for(space, policy)
    batch = batch.replace(valid=jnp.asarray(np.random.default_rng(5).random(N) < share))
    loss, terms = ppo.loss(jnp.asarray(policy, jnp.float32), value, batch, space, hyper)
    expected, slow = slow_loss(policy, value, batch, space, hyper)
    np.testing.assert_allclose(loss, expected, rtol=5e-5, atol=1e-6)
    assert terms.keys() == slow.keys()
    for name, number in terms.items():
        np.testing.assert_allclose(number, slow[name], rtol=1e-4, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("space", SPACES, ids=["discrete", "continuous"])
def test_steps_that_are_not_valid_change_neither_loss_nor_gradient(space):
    policy = outputs(space)
    batch, value = batch_for(space, policy)
    valid = np.arange(N) % 3 > 0
    dirty = batch.replace(
        valid=jnp.asarray(valid),
        log_prob=jnp.where(valid, batch.log_prob, -3.0),
        value=jnp.where(valid, batch.value, 1e6),
        advantage=jnp.where(valid, batch.advantage, -1e6),
        target=jnp.where(valid, batch.target, 1e6),
    )

    def loss(policy, value, batch):
        return ppo.loss(policy, value, batch, space, HYPER)

    gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    loss, (to_policy, to_value) = gradient(jnp.asarray(policy, jnp.float32), value, dirty)
    valid_inputs = jax.tree.map(lambda x: x[valid], (jnp.asarray(policy, jnp.float32), value, batch))
    expected, (expected_policy, expected_value) = gradient(*valid_inputs)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), loss, expected)
    np.testing.assert_allclose(to_policy[valid], expected_policy, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(to_value[valid], expected_value, rtol=1e-5, atol=1e-7)
    assert not np.any(to_policy[~valid]) and not np.any(to_value[~valid])


def test_a_minibatch_without_a_valid_step_teaches_nothing():
    space = Discrete(4)
    policy = jnp.asarray(outputs(space), jnp.float32)
    batch, value = batch_for(space, np.asarray(policy))
    batch = batch.replace(valid=jnp.zeros(N, bool))
    loss_and_gradient = jax.value_and_grad(lambda p: ppo.loss(p, value, batch, space, HYPER)[0])(policy)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0.0), loss_and_gradient)


def test_advantages_are_normalised_within_the_batch():
    """Shift and scale of the advantages change nothing."""
    space = Discrete(4)
    policy = outputs(space)
    batch, value = batch_for(space, policy)
    other = batch.replace(advantage=3.0 * batch.advantage - 5.0)
    losses = [ppo.loss(jnp.asarray(policy, jnp.float32), value, b, space, HYPER)[1] for b in (batch, other)]
    np.testing.assert_allclose(losses[0]["policy_loss"], losses[1]["policy_loss"], rtol=1e-5)
    assert float(losses[0]["value_loss"]) == float(losses[1]["value_loss"])


def test_equal_advantages_give_no_policy_gradient_and_stay_finite():
    space = Discrete(4)
    policy = jnp.asarray(outputs(space), jnp.float32)
    batch, value = batch_for(space, np.asarray(policy))
    batch = batch.replace(advantage=jnp.full(N, 2.0))
    gradient = jax.grad(lambda p: ppo.loss(p, value, batch, space, HYPER.replace(entropy=0.0))[0])(policy)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


@pytest.mark.parametrize("space", SPACES, ids=["discrete", "continuous"])
def test_policy_gradient_is_zero_just_where_the_advantage_pushes_on_beyond_the_clip(space):
    policy = outputs(space)
    batch, value = batch_for(space, policy)
    hyper = HYPER.replace(entropy=0.0)
    gradient = jax.grad(lambda p: ppo.loss(p, value, batch, space, hyper)[0])(jnp.asarray(policy, jnp.float32))
    moves = np.abs(np.asarray(gradient)).max(-1) > 1e-7
    advantage = np.asarray(batch.advantage) - np.asarray(batch.advantage).mean()
    cases = set()
    for n in range(N):
        ratio = np.exp(slow_policy(policy[n], np.asarray(batch.action)[n], space)[0] - float(batch.log_prob[n]))
        side = int(ratio > 1 + hyper.clip) - int(ratio < 1 - hyper.clip)
        assert moves[n] == (side * advantage[n] <= 0), (n, ratio, advantage[n])
        cases.add((side, advantage[n] > 0))
    assert len(cases) == 6  # below, in and above the range, each with either sign


def test_policy_gradient_raises_the_probability_of_good_actions():
    space = Discrete(4)
    policy = outputs(space)
    batch, value = batch_for(space, policy)
    batch = batch.replace(log_prob=policy_distribution(jnp.asarray(policy), space).log_prob(batch.action))
    hyper = HYPER.replace(entropy=0.0)
    gradient = jax.grad(lambda p: ppo.loss(p, value, batch, space, hyper)[0])(jnp.asarray(policy))
    chosen = np.asarray(gradient)[np.arange(N), np.asarray(batch.action)]
    np.testing.assert_array_equal(np.sign(-chosen), np.sign(np.asarray(batch.advantage) - np.mean(batch.advantage)))


def test_value_gradient_is_zero_where_the_clipped_error_is_the_larger():
    space = Discrete(4)
    policy = outputs(space)
    batch, value = batch_for(space, policy)
    gradient = jax.grad(lambda v: ppo.loss(jnp.asarray(policy), v, batch, space, HYPER)[0])(value)
    old, target = np.asarray(batch.value), np.asarray(batch.target)
    held = 0
    for n in range(N):
        moved = np.clip(value[n], old[n] - HYPER.clip, old[n] + HYPER.clip)
        beyond = abs(value[n] - old[n]) > HYPER.clip
        expected = HYPER.value_weight * (value[n] - target[n]) / N
        if beyond and (moved - target[n]) ** 2 > (value[n] - target[n]) ** 2:
            expected, held = 0.0, held + 1
        np.testing.assert_allclose(gradient[n], expected, rtol=1e-4, atol=1e-7)
    assert 0 < held < N


def test_entropy_bonus_pulls_towards_the_uniform_policy():
    space = Discrete(4)
    policy = jnp.asarray(outputs(space))
    batch, value = batch_for(space, np.asarray(policy))
    batch = batch.replace(advantage=jnp.zeros(N))
    gradient = jax.grad(lambda p: ppo.loss(p, value, batch, space, HYPER)[0])(policy)
    stepped = policy_distribution(policy - 0.1 * gradient, space).entropy()
    assert jnp.all(stepped > policy_distribution(policy, space).entropy())
