"""The belief that learns from posteriors of whole sessions: its objective, and what moves what."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dynamite_jax as dj
from conftest import tiny_config
from dynamite_jax import config as configs
from dynamite_jax.beliefs.smoothing import SmoothingBelief
from dynamite_jax.config import Config, ConfigError
from dynamite_jax.methods import METHODS
from episodes import (
    BATCH,
    HORIZON,
    LATENT,
    NETWORK,
    SESSION,
    VALID,
    WEIGHTS,
    behind_the_end,
    drift,
    scattered,
    trajectories,
)

HYPER = WEIGHTS.replace(posterior="session")


def build(hyper=HYPER, env=None) -> tuple[Any, Any]:
    belief = SmoothingBelief.build(Config(network=NETWORK, vae=hyper), env or drift())
    params = scattered(jax.eval_shape(belief.init, jax.random.key(0)))
    params["params"]["baseline_error"] = jnp.float32(-0.05)
    return belief, params


def relu(x):
    return np.maximum(x, 0.0)


def layers(params, x):
    """An MLP, in float64."""
    names = sorted(params)
    for name in names:
        x = x @ params[name]["kernel"] + params[name]["bias"]
        x = x if name == names[-1] else relu(x)
    return x


def kl(mean, log_variance, of_mean, of_log_variance):
    squared = np.exp(log_variance) + (mean - of_mean) ** 2
    return 0.5 * (of_log_variance - log_variance + squared / np.exp(of_log_variance) - 1.0).sum()


def slow_terms(params, states, data, noise, hyper):
    """The terms of the loss one step at a time, given the states of the encoder."""
    p = jax.tree.map(lambda x: np.asarray(x, float), params["params"])
    observation, action, reward = (np.asarray(x, float) for x in (data.observation, data.action, data.reward))
    action, session, valid = np.clip(action, -1.0, 1.0), np.asarray(data.session), np.asarray(data.valid)
    belief = jax.tree.map(lambda x: np.asarray(x, float), states.belief)
    deviation = np.exp(10.0 * p["baseline_error"])
    terms: dict[str, list[float]] = {name: [] for name in ("baseline", "reward_error", "state_error", "kl", "filter")}

    def left_by_baseline(t, b):
        x = np.concatenate([observation[t, b], action[t, b], observation[t + 1, b]])
        return (reward[t, b] - layers(p["baseline"], x)[0]) / deviation, x

    for b in range(BATCH):
        for t in np.flatnonzero(valid[:, b]):
            steps = [
                j for j in range(HORIZON) if valid[j, b] and (session[j, b] == session[t, b] or not hyper.session_mask)
            ]
            told = [(np.clip(left, -3.0, 3.0), x) for left, x in (left_by_baseline(j, b) for j in steps)]
            features = np.mean([layers(p["step_features"], np.append(x, left)) for left, x in told], axis=0)
            body = np.append(relu(features), np.log(len(steps)))
            body = relu(body @ p["session_body"]["kernel"] + p["session_body"]["bias"])
            mean, log_variance = np.split(layers({"a": p["session_head"]["Dense_0"]}, body), 2)
            z = mean + np.exp(0.5 * log_variance) * noise[t, b]
            left, x = left_by_baseline(t, b)
            terms["baseline"].append(0.5 * left**2 + np.log(deviation))
            decoded = layers(p["reward_decoder"], np.append(x, z))[0]
            terms["reward_error"].append(0.5 * len(steps) * (decoded - np.clip(left, -3.0, 3.0)) ** 2)
            x = np.concatenate([observation[t, b], action[t, b], z])
            missed = observation[t, b] + layers(p["state_decoder"], x) - observation[t + 1, b]
            terms["state_error"].append(0.5 * len(steps) * (missed**2).sum())
            first = next(j for j in range(HORIZON) if session[j, b] == session[t, b])
            prior = np.zeros(LATENT), np.zeros(LATENT)
            if first and hyper.conditioning:
                x = np.concatenate([belief.mean[first, b], belief.log_variance[first, b]])
                x = np.tanh(x @ p["prior_body"]["kernel"] + p["prior_body"]["bias"])
                prior = np.split(layers({"a": p["prior_head"]["Dense_0"]}, x), 2)
            terms["kl"].append(kl(mean, log_variance, *prior))
            terms["filter"].append(kl(mean, log_variance, belief.mean[t, b], belief.log_variance[t, b]))
    return {name: np.mean(values) for name, values in terms.items()}


@pytest.mark.parametrize("valid", [None, VALID], ids=["to_the_horizon", "ended"])
@pytest.mark.parametrize("changes", [{}, {"session_mask": False}, {"conditioning": False}], ids=str)
def test_loss_equals_the_slow_objective(changes, valid, monkeypatch):
    noise = np.random.default_rng(2).normal(size=(HORIZON, BATCH, LATENT))
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.asarray(noise, jnp.float32))
    hyper, data = HYPER.replace(**changes), trajectories(valid=valid)
    belief, params = build(hyper)
    result, terms = belief.loss(params, data, jax.random.key(0), hyper)
    slow = slow_terms(params, belief.encode(params, data), data, noise, hyper)
    for name, value in slow.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)
    weights = {"reward_error": 0.7, "state_error": 0.3, "kl": 0.11, "consistency": 0.4, "boundary": 0.9}
    total = sum(weights.get(name, 1.0) * value for name, value in terms.items() if name != "loss")
    np.testing.assert_allclose(result, total, rtol=1e-5)
    assert terms.keys() == {*weights, "baseline", "filter", "loss"}


def test_a_session_is_known_by_all_of_its_steps_and_by_no_others():
    belief, params = build()
    data = trajectories()
    first = np.array(
        [
            [min(j for j in range(HORIZON) if SESSION[j, b] == SESSION[t, b]) for b in range(BATCH)]
            for t in range(HORIZON)
        ]
    )
    last = np.array(
        [
            [max(j for j in range(HORIZON) if SESSION[j, b] == SESSION[t, b]) for b in range(BATCH)]
            for t in range(HORIZON)
        ]
    )

    def posterior(reward):
        steps = (data.observation[:-1], data.action, data.observation[1:], reward, jnp.array(first), jnp.array(last))
        return np.asarray(belief.model.apply(params, *steps, method="posterior").features)

    before = posterior(data.reward)
    for step in range(HORIZON):
        moved = np.abs(posterior(data.reward.at[step].add(1.0)) - before).max(-1) > 1e-4
        np.testing.assert_array_equal(moved, SESSION[step] == SESSION)
    for t in range(1, HORIZON):
        same = SESSION[t] == SESSION[t - 1]
        np.testing.assert_allclose(before[t][same], before[t - 1][same], atol=1e-5)


def test_the_posterior_does_not_depend_on_the_order_of_steps():
    belief, params = build()
    data, order = trajectories(session=np.zeros_like(SESSION)), np.array([3, 1, 0, 6, 5, 2, 4])
    bounds = jnp.zeros((HORIZON, BATCH), int), jnp.full((HORIZON, BATCH), HORIZON - 1)
    steps = (data.observation[:-1], data.action, data.observation[1:], data.reward)
    one, other = (
        belief.model.apply(params, *(x[chosen] for x in steps), *bounds, method="posterior").mean
        for chosen in (np.arange(HORIZON), order)
    )
    np.testing.assert_allclose(one, other, atol=1e-5)


PARTS = {
    "baseline": {"baseline", "baseline_error"},
    "reward_error": {"step_features", "session_body", "session_head", "reward_decoder"},
    "state_error": {"step_features", "session_body", "session_head", "state_decoder"},
    "kl": {"step_features", "session_body", "session_head", "prior_body", "prior_head"},
    "filter": {"encoder"},
}


@pytest.mark.parametrize("term", PARTS)
def test_a_term_moves_its_own_networks_alone(term):
    """Beliefs follow the posterior, which does not come to meet them; the decoder leaves the baseline alone."""
    belief, params = build()
    gradient = jax.grad(lambda p: belief.loss(p, trajectories(), jax.random.key(0), HYPER)[1][term])(params)
    moved = {name for name, part in gradient["params"].items() if any(np.any(x) for x in jax.tree.leaves(part))}
    assert moved == PARTS[term]


def test_what_lies_behind_the_end_counts_for_nothing():
    belief, params = build()
    data = trajectories(valid=VALID)
    losses = [
        belief.loss(params, behind_the_end(data, number), jax.random.key(0), HYPER)[0] for number in (0.0, 1.0, -7.0)
    ]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


def test_reward_is_decoded_in_its_unit():
    """The expected reward that evaluations ask for adds the baseline: the loss's prediction is of the same reward."""
    belief, params = build()
    data = trajectories()
    steps = (data.observation[0], data.action[0], data.observation[1])
    z = jnp.zeros((BATCH, LATENT))
    mean, deviation = belief.model.apply(params, *steps, method="without_context")
    with_nothing = jax.tree.map(jnp.zeros_like, params)
    other = {"params": {**params["params"], "reward_decoder": with_nothing["params"]["reward_decoder"]}}
    np.testing.assert_allclose(belief.model.apply(other, *steps, z, method="decode_reward"), mean, rtol=1e-6)
    assert float(deviation) == pytest.approx(np.exp(-0.5), rel=1e-5)


def test_the_switch_chooses_the_belief_and_is_refused_elsewhere():
    config = tiny_config("gridworld", "dynamite")
    session = dataclasses.replace(config, vae=config.vae.replace(posterior="session"))
    env = configs.validate(session)
    assert isinstance(METHODS["dynamite"].build(session, env), SmoothingBelief)
    assert not isinstance(METHODS["dynamite"].build(config, env), SmoothingBelief)
    with pytest.raises(ConfigError, match="vae.posterior is 'session'; with method varibad it must be 'filtered'"):
        configs.validate(dataclasses.replace(session, method="varibad"))
    chain = dataclasses.replace(session, vae=session.vae.replace(kl_target="previous_belief"))
    with pytest.raises(ConfigError, match="vae.kl_target is 'previous_belief'; with vae.posterior 'session'"):
        configs.validate(chain)


def test_a_run_trains_by_it():
    run = dj.train(tiny_config("point_robot", seeds=1, env_options={"horizon": 12}, vae={"posterior": "session"}))
    assert {"vae/filter", "vae/baseline", "vae/boundary"} <= run.records[0].keys()
    assert all(np.isfinite(value).all() for record in run.records for value in record.values())
    assert np.isfinite(dj.evaluate(run).returns).all()
