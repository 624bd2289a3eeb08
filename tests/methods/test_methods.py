"""What the methods beside DynaMITE and VariBAD do differently, against slow NumPy and exact filters."""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import numpy_elbo as reference
from conftest import assert_same, build, tiny_config
from dynamite_jax.beliefs import contrastive, segments
from dynamite_jax.beliefs.segments import SegmentBelief
from dynamite_jax.config import Config, VAEConfig
from dynamite_jax.data.rollout import play
from dynamite_jax.methods import METHODS, of_setting
from episodes import (
    BATCH,
    HORIZON,
    NETWORK,
    SESSION,
    VALID,
    behind_the_end,
    drift,
    scattered,
    statistics,
    to_numpy,
    trajectories,
)


def belief_of(method, env=None, **network):
    """A method's belief and parameters with no zero in them."""
    config = Config(method=method, network=dataclasses.replace(NETWORK, **network))
    belief = METHODS[method].build(METHODS[method].configure(config), env or drift())
    return belief, scattered(jax.eval_shape(belief.init, jax.random.key(0)))


def acted(belief, params, data):
    """States of the belief at every step when it takes in one transition after the other, time-major."""
    batch = data.reward.shape[1]
    state, states = belief.initial((batch,)), []
    action, reward = jnp.zeros_like(data.action[0]), jnp.zeros(batch)
    update = jax.jit(belief.update)
    for t in range(len(data.reward)):
        state = update(params, state, data.observation[t], action, reward)
        states.append(state)
        action, reward = data.action[t], data.reward[t]
    return jax.tree.map(lambda *x: jnp.stack(x), *states)


@pytest.mark.parametrize("method", ["rl2", "contrabar", "task_inference", "secbad"])
@pytest.mark.parametrize("discrete", [True, False])
def test_recurrent_states_of_whole_episodes_are_those_of_acting(method, discrete):
    belief, params = belief_of(method, drift(discrete))
    data = trajectories(discrete)
    for x, y in zip(*map(jax.tree.leaves, (acted(belief, params, data), belief.encode(params, data))), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


# -- RL^2 ---------------------------------------------------------------------------------------------------------


def updated_policy(method, **ppo):
    """State before and after the policy update on one rollout, and the mean losses."""
    config = tiny_config("probe_memory", method, ppo={"minibatches": 1, "epochs": 1, **ppo})
    program, states = build(config)
    s = jax.tree.map(lambda x: x[0], states)
    s = s.replace(normaliser=statistics(s.normaliser.mean.features.value.size, program.env.observation_size))
    rollout, _, _ = play(program.agent, program.env, s.agent_params, s.environment, s.key)
    _, samples = program.algorithm.policy_samples(rollout, program.algorithm.hyper[1], s)
    after, losses = program.algorithm.update_policy(
        program.env, rollout, samples, program.algorithm.hyper[1], s, jax.random.key(0)
    )
    return s, after, losses


def test_the_loss_of_the_policy_sees_the_memory_as_it_was_when_acting():
    _, _, losses = updated_policy("rl2")
    assert abs(float(losses["approx_kl"])) < 1e-6
    assert float(losses["clip_fraction"]) == 0.0


@pytest.mark.parametrize("method", of_setting("online"))
def test_the_loss_of_the_policy_trains_the_memory_of_rl2_alone(method):
    before, after, _ = updated_policy(method, lr=1e-2)
    pairs = zip(jax.tree.leaves(before.belief_params), jax.tree.leaves(after.belief_params), strict=True)
    moved = [not np.array_equal(x, y) for x, y in pairs]
    assert all(moved) if method == "rl2" else not any(moved)


MAKE_FEATURES = {
    "dynamite": r"\['encoder'\](?!.*boundary)",
    "varibad": r"\['encoder'\]",
    "contrabar": r"\['(input|input_gates|recurrent_gates)'\]",
    "task_inference": "",
}  # parameters, by a pattern of their paths


@pytest.mark.parametrize("method", MAKE_FEATURES)
def test_the_loss_of_the_policy_can_train_encoders_that_learn_by_a_loss_of_their_own_too(method):
    """All of what makes the features moves and nothing else does; the belief was the same when acting."""
    before, after, losses = updated_policy(method, lr=1e-2, through_encoder=True)
    params = [jax.tree_util.tree_leaves_with_path(state.belief_params) for state in (before, after)]
    for (path, old), (_, new) in zip(*params, strict=True):
        part = jax.tree_util.keystr(path)
        makes_features = re.search(MAKE_FEATURES[method], part) is not None
        assert np.array_equal(old, new) != makes_features, part
    jax.tree.map(np.testing.assert_array_equal, after.belief_params, after.belief_learner)
    _, _, losses = updated_policy(method, through_encoder=True)
    assert abs(float(losses["approx_kl"])) < 1e-6


# -- ContraBAR ----------------------------------------------------------------------------------------------------


def gru(params, hidden, from_input, names):
    """One step of a GRU from its input gates, in NumPy."""

    def sigmoid(x):
        return 1.0 / (1.0 + np.exp(-x))

    reset_in, update_in, new_in = np.split(from_input, 3)
    reset_h, update_h, new_h = np.split(reference.dense(params[names], hidden), 3)
    update = sigmoid(update_in + update_h)
    return (1 - update) * np.tanh(new_in + sigmoid(reset_in + reset_h) * new_h) + update * hidden


@pytest.mark.parametrize("valid", [None, VALID], ids=["to_the_horizon", "ended"])
def test_contrastive_loss_equals_the_slow_one(valid):
    """Every step an anchor; negatives are the same minibatch, moved on in time and among trajectories.

    From every other one the observation stays, so that only its reward can tell it apart.
    """
    belief, params = belief_of("contrabar")
    data, key = trajectories(valid=valid), jax.random.key(5)
    length = np.asarray(data.valid).sum(0).tolist()
    loss, terms = belief.loss(params, data, key, VAEConfig(elbo_terms=0))

    weights = to_numpy(params)["params"]
    states = np.asarray(belief.encode(params, data), float)
    observation, reward = np.asarray(data.observation, float), np.asarray(data.reward, float)
    action = np.clip(np.asarray(data.action, float), -1, 1)
    shifts = []
    for k in jax.random.split(jax.random.split(key)[1], contrastive.NEGATIVES):
        time_key, batch_key = jax.random.split(k)
        shifts.append(
            (int(jax.random.randint(time_key, (), 0, HORIZON)), int(jax.random.randint(batch_key, (), 1, BATCH)))
        )
    assert len(set(shifts)) > 5

    def logit(hidden, seen, rewarded):
        """Whether the observation after the step `seen` and the reward of `rewarded` followed, (t, b) each."""
        outcome = np.append(observation[seen[0] + 1, seen[1]], reward[rewarded])
        x = np.maximum(reference.dense(weights["observed"], outcome), 0)
        both = reference.dense(weights["predicted"], hidden) + reference.dense(weights["seen"], x)
        return reference.dense(weights["score"], np.maximum(both, 0))[0]

    positive, negative = [], []
    for t in range(HORIZON):
        for b in range(BATCH):
            hidden = states[t, b]
            for k in range(min(contrastive.LOOK_AHEAD, length[b] - t)):
                gates = reference.dense(weights["action_gates"], action[t + k, b])
                hidden = gru(weights, hidden, gates, "future_gates")
                true = (t + k, b)
                positive.append(reference.cross_entropy(logit(hidden, true, true), 1.0))
                columns = [(b - move) % BATCH for _, move in shifts]
                others = [((t + k - time) % length[c], c) for (time, _), c in zip(shifts, columns, strict=True)]
                pairs = [(true if n % 2 == 0 else other, other) for n, other in enumerate(others)]
                negative.append(np.mean([reference.cross_entropy(logit(hidden, *pair), 0.0) for pair in pairs]))
    np.testing.assert_allclose(terms["positive"], np.mean(positive), rtol=1e-4)
    np.testing.assert_allclose(terms["negative"], np.mean(negative), rtol=1e-4)
    np.testing.assert_allclose(loss, (np.mean(positive) + np.mean(negative)) / 2, rtol=1e-4)


@pytest.mark.parametrize("method", ["contrabar", "secbad"])
@pytest.mark.parametrize("terms", [0, 4])
def test_what_lies_behind_an_end_changes_neither_loss_nor_gradient(method, terms):
    belief, params = belief_of(method)
    hyper, data = VAEConfig(elbo_terms=terms), trajectories(valid=VALID)
    loss = jax.jit(jax.value_and_grad(lambda params, data: belief.loss(params, data, jax.random.key(0), hyper)[0]))
    expected = loss(params, data)
    for result in (loss(params, behind_the_end(data, number)) for number in (0.0, 1e6)):
        for x, y in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)


def test_anchors_are_a_sample_of_the_steps():
    """Over many draws the mean loss with few anchors is that with all of them."""
    belief, params = belief_of("contrabar")
    data = trajectories()

    def losses(terms):
        def loss(key):
            return belief.loss(params, data, key, VAEConfig(elbo_terms=terms))[1]["positive"]

        return jax.jit(partial(jax.lax.map, loss))(jax.random.split(jax.random.key(0), 400))

    few, every = losses(HORIZON - 1), losses(0)
    assert np.ptp(every) < 1e-6
    assert np.std(few) > 1e-4


# -- SeCBAD -------------------------------------------------------------------------------------------------------


def slow_actions(data, b):
    """Encoded actions of a trajectory, [H, A], and the one before the first step."""
    action = np.asarray(data.action[:, b])
    return (np.eye(3)[action], np.eye(3)[0]) if action.ndim == 1 else (np.clip(action, -1, 1), np.zeros(2))


def slow_hidden(weights, data, b, rows):
    """Recurrent state after the evidence of these steps of a trajectory alone."""
    hidden, (actions, idle) = np.zeros(6), slow_actions(data, b)
    for t in rows:
        action, reward = (actions[t - 1], data.reward[t - 1, b]) if t else (idle, 0.0)
        hidden = encoder_update(weights, hidden, data.observation[t, b], action, reward)
    return hidden


def encoder_update(weights, hidden, observation, action, reward):
    """Recurrent state after one more step."""
    x = np.concatenate([observation, action, [reward]])
    gates = reference.dense(weights["input_gates"], np.maximum(reference.dense(weights["input"], x), 0))
    return gru(weights, hidden, gates, "recurrent_gates")


def slow_filter(belief, params, data, b, rate):
    """Odds of each length of the segment and the belief that goes with it, by running the encoder on each segment.

    Returns for every step t a dict: transitions of the segment -> (probability, mean of the belief).
    """
    weights = to_numpy(params)["params"]
    observation, reward = (np.asarray(x[:, b], float) for x in (data.observation, data.reward))
    action, idle = slow_actions(data, b)

    def encoded(start, t):
        """Mean after the transitions start .. t - 1; the first segment also holds s_0."""
        rows = range(start + 1 if start else 0, t + 1)
        return reference.gaussian(weights["encoder"]["head"], slow_hidden(weights["encoder"], data, b, rows))[0]

    def likelihood(t, z):
        """Of the transition t."""
        both = np.concatenate([observation[t], action[t], observation[t + 1], z])
        error = ((reference.mlp(weights["reward_decoder"], both)[0] - reward[t]) / REWARD_ERROR) ** 2
        both = np.concatenate([observation[t], action[t], z])
        moved = observation[t] + reference.mlp(weights["state_decoder"], both)
        error += np.sum(((moved - observation[t + 1]) / OBSERVATION_ERROR) ** 2)
        return np.exp(-0.5 * error)

    odds, steps = {0: 1.0}, []
    for t in range(HORIZON):
        if t:
            new = {}
            for length, weight in odds.items():
                grown = likelihood(t - 1, encoded(t - 1 - length, t - 1))
                new[length + 1] = weight * grown * ((1 - rate) if length else 1.0)
            # A new segment knows nothing but the state in which it begins.
            nothing = encoder_update(weights["encoder"], np.zeros(6), observation[t - 1], idle, 0.0)
            nothing = likelihood(t - 1, reference.gaussian(weights["encoder"]["head"], nothing)[0])
            begun = rate * nothing * sum(weight for length, weight in odds.items() if length)
            new[1] = new.get(1, 0.0) + begun
            total = sum(new.values())
            odds = {length: weight / total for length, weight in new.items()}
        steps.append({length: (weight, encoded(t - length, t)) for length, weight in odds.items()})
    return steps


REWARD_ERROR, OBSERVATION_ERROR = 0.8, np.array([1.3, 0.6])


def with_errors(params, reward, observation):
    """The same parameters, with predictions taken to be so far off."""

    def stored(error):  # errors are the least one and what is learnt, added as independent ones
        return 0.5 * jnp.log(error**2 - 0.02**2) / segments.SPEED

    return {**params, "error": {"reward": stored(reward), "observation": stored(observation)}}


def test_no_prediction_is_taken_to_be_better_than_the_least_error():
    """However small what is learnt: 0.02, where a gradient still leads back."""
    belief, params = belief_of("secbad")
    assert isinstance(belief, SegmentBelief)

    def reward_error(value):
        return belief.errors({**params, "error": {"reward": jnp.asarray(value)}})["reward"][0]

    assert float(reward_error(-10.0)) == pytest.approx(0.02)
    value, gradient = jax.value_and_grad(reward_error)(jnp.log(0.02) / segments.SPEED)
    assert float(value) == pytest.approx(0.02 * np.sqrt(2), rel=1e-5) and float(gradient) > 0.0


def segment_belief(rate, hypotheses=HORIZON + 1, env=None) -> tuple[SegmentBelief, dict]:
    belief, params = belief_of("secbad", env)
    assert isinstance(belief, SegmentBelief)
    belief = dataclasses.replace(belief, rate=rate, hypotheses=hypotheses)
    return belief, with_errors(params, REWARD_ERROR, OBSERVATION_ERROR)


@pytest.mark.parametrize("rate, discrete", [(0.0, False), (0.3, False), (0.3, True), (1.0, False)])
def test_the_filter_over_segments_is_the_one_that_counts_every_start(rate, discrete):
    belief, params = segment_belief(rate, env=drift(discrete))
    data = trajectories(discrete)
    states = acted(belief, params, data)
    means = jax.vmap(belief.summary)(states).mean
    for b in range(BATCH):
        for t, expected in enumerate(slow_filter(belief, params, data, b, rate)):
            weight, length = np.exp(states.log_weight[t, b]), np.asarray(states.length[t, b])
            probability = {n: float(weight[length == n].sum()) for n in set(length[weight > 1e-9].tolist())}
            expected = {n: x for n, x in expected.items() if x[0] > 1e-9}
            assert probability.keys() == expected.keys()
            for n, (odds, _) in expected.items():
                assert probability[n] == pytest.approx(odds, rel=2e-3, abs=1e-6)
            best = max(expected, key=lambda n: expected[n][0])
            np.testing.assert_allclose(means[t, b], expected[best][1], rtol=1e-3, atol=1e-4)


def test_a_boundary_is_where_the_likeliest_segment_has_one_transition():
    data = trajectories()
    for rate, expected in ((0.0, False), (1.0, True)):
        belief, params = segment_belief(rate)
        boundaries = np.asarray(jax.vmap(belief.boundary)(acted(belief, params, data)))
        assert not boundaries[:2].any()  # the first transition begins no new segment
        assert np.all(boundaries[2:] == expected)


def test_few_hypotheses_keep_the_newest_and_the_likeliest():
    belief, params = segment_belief(0.1, hypotheses=3)
    states = acted(belief, params, trajectories())
    used = np.isfinite(states.log_weight)
    assert np.all((np.asarray(states.length)[2:] == 1).any(-1))
    assert np.all(used[3:])
    np.testing.assert_allclose(np.exp(states.log_weight).sum(-1), 1.0, rtol=1e-5)


def test_the_encoder_starts_anew_at_labelled_segments():
    """Training is as if each segment were an episode, but for the first state, which no transition led to."""
    belief, params = segment_belief(0.3)
    data = trajectories()
    states = belief.encode_labelled(params, data)
    weights = to_numpy(params)["params"]
    for b in range(BATCH):
        start = 0
        for t in range(HORIZON):
            if t >= 2 and SESSION[t - 1, b] != SESSION[t - 2, b]:
                start = t
            hidden = slow_hidden(weights["encoder"], data, b, range(start, t + 1))
            np.testing.assert_allclose(states.hidden[t, b], hidden, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("valid", [None, VALID], ids=["to_the_horizon", "ended"])
def test_the_objective_of_segments_is_that_of_varibad_in_each(valid, monkeypatch):
    """And the belief that a later segment begins with, as the filter has it, predicts its first transition."""
    noise = np.random.default_rng(2).normal(size=(HORIZON, BATCH, 2))
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.asarray(noise, jnp.float32).reshape(shape))
    belief, params = segment_belief(0.3)
    hyper = VAEConfig(reward_weight=0.7, state_weight=0.3, kl_weight=0.11, decode_terms=0)
    data = trajectories(valid=valid)
    loss, terms = belief.loss(params, data, jax.random.key(0), hyper)
    weights, beliefs = to_numpy((params["params"], belief.encode_labelled(params, data).belief))
    reward_error, state_error, kl = [], [], []
    zeros = jnp.zeros_like(data.action[0]), jnp.zeros(BATCH)
    fresh = [belief.update(params, belief.initial((BATCH,)), seen, *zeros).fresh for seen in data.observation[:-1]]

    def squared(z, j, b):
        """Of the reward and of the state of a transition."""
        s, a, following = data.observation[j, b], np.clip(data.action[j, b], -1, 1), data.observation[j + 1, b]
        reward = reference.mlp(weights["reward_decoder"], np.concatenate([s, a, following, z]))[0]
        state = s + reference.mlp(weights["state_decoder"], np.concatenate([s, a, z]))
        return np.array([float(reward - data.reward[j, b]) ** 2, float(np.sum((state - following) ** 2))])

    for b in range(BATCH):
        q = [(beliefs.mean[t, b], beliefs.log_variance[t, b]) for t in range(HORIZON)]
        length = int(data.valid[:, b].sum())
        for t in range(length):
            newest = max(t - 1, 0)
            z = q[t][0] + np.exp(0.5 * q[t][1]) * noise[t, b]
            errors = 0.5 * np.sum(
                [squared(z, j, b) for j in reference.steps_of_session(SESSION[:length, b], newest)], 0
            )
            begins = t == 0 or (t >= 2 and SESSION[t - 1, b] != SESSION[t - 2, b])
            kl.append(reference.kl(q[t], reference.standard_normal(2) if begins else q[t - 1]))
            if t > 0 and SESSION[t, b] != SESSION[t - 1, b]:
                start = np.asarray(fresh[t].mean[b]), np.asarray(fresh[t].log_variance[b])
                errors += 0.5 * squared(start[0] + np.exp(0.5 * start[1]) * noise[t, b], t, b)
                kl[-1] += reference.kl(start, reference.standard_normal(2))
            reward_error.append(errors[0])
            state_error.append(errors[1])
    np.testing.assert_allclose(terms["reward_error"], np.mean(reward_error), rtol=1e-3)
    np.testing.assert_allclose(terms["state_error"], np.mean(state_error), rtol=1e-3)
    np.testing.assert_allclose(terms["kl"], np.mean(kl), rtol=1e-3)
    total = 0.7 * np.mean(reward_error) + 0.3 * np.mean(state_error) + 0.11 * np.mean(kl)
    errors = slow_errors(weights, beliefs.mean, data)
    scaled = [reward / REWARD_ERROR**2 + np.sum(state / OBSERVATION_ERROR**2) for reward, state in errors]
    total += segments.SHARE * (0.5 * np.mean(scaled) + np.log(REWARD_ERROR) + np.log(OBSERVATION_ERROR).sum())
    np.testing.assert_allclose(loss, total, rtol=1e-3)
    np.testing.assert_allclose(terms["reward_deviation"], REWARD_ERROR, rtol=1e-5)


def slow_errors(weights, means, data):
    """Squared errors of each transition's prediction by the belief before it, where its segment had begun."""
    errors = []
    for b in range(BATCH):
        for t in range(1, int(data.valid[:, b].sum())):
            if SESSION[t, b] == SESSION[t - 1, b]:
                s, a, following = data.observation[t, b], np.clip(data.action[t, b], -1, 1), data.observation[t + 1, b]
                predicted = reference.mlp(weights["reward_decoder"], np.concatenate([s, a, following, means[t, b]]))[0]
                moved = s + reference.mlp(weights["state_decoder"], np.concatenate([s, a, means[t, b]]))
                errors.append((float(predicted - data.reward[t, b]) ** 2, np.asarray(moved - following, float) ** 2))
    return errors


def test_errors_of_prediction_are_learnt_beside_the_networks():
    """They rest where they are what the filter's predictions are off by, and no network feels them."""
    belief, params = segment_belief(0.3)
    data = trajectories()
    weights, means = to_numpy((params["params"], belief.encode_labelled(params, data).belief.mean))
    reward, observation = (
        np.sqrt(np.mean(squared, 0)) for squared in zip(*slow_errors(weights, means, data), strict=True)
    )

    def gradient(params):
        return jax.grad(lambda params: belief.loss(params, data, jax.random.key(0), VAEConfig())[0])(params)

    at_rest, larger = (gradient(with_errors(params, k * reward, k * observation)) for k in (1.0, 2.0))
    for there, beyond in zip(jax.tree.leaves(at_rest["error"]), jax.tree.leaves(larger["error"]), strict=True):
        np.testing.assert_allclose(there, 0.0, atol=1e-5 * segments.SHARE * segments.SPEED)
        np.testing.assert_allclose(beyond, 0.75 * segments.SHARE * segments.SPEED, rtol=1e-3)
    assert_same(at_rest["params"], larger["params"])


def test_the_policy_sees_the_latent_of_the_likeliest_segment():
    belief, params = segment_belief(0.3)
    states = jax.tree.map(lambda x: x[-1], acted(belief, params, trajectories()))
    best = np.argmax(states.log_weight, axis=1)
    expected = jax.tree.map(lambda x: x[np.arange(BATCH), best], states.encoded.belief)
    features = belief.features(states)
    np.testing.assert_array_equal(features, np.concatenate([expected.mean, expected.log_variance], -1))
