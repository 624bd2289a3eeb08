"""The belief model: its objective against slow NumPy, its estimators, and its gradients."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import numpy_elbo as reference
from conftest import assert_same, tiny_config
from dynamite_envs import registry
from dynamite_jax import config as configs
from dynamite_jax.agents import running_statistics
from dynamite_jax.agents.agent import Agent
from dynamite_jax.algorithms.meta_ppo import MetaPPO
from dynamite_jax.beliefs.latent import LatentBelief
from dynamite_jax.config import Config, VAEConfig
from dynamite_jax.data.types import BeliefState, Gaussian, Rollout
from dynamite_jax.methods import varibad
from episodes import (
    BATCH,
    HORIZON,
    LATENT,
    SESSION,
    VALID,
    WEIGHTS,
    behind_the_end,
    build,
    drift,
    scattered,
    to_numpy,
    trajectories,
)


def slow_encode_action(discrete):
    return (lambda a: np.eye(3)[int(a)]) if discrete else (lambda a: np.clip(a, -1.0, 1.0))


def expected(params, data, noise, hyper, env, target_params=None):
    encode_action = slow_encode_action(env.discrete)
    data = data.replace(**to_numpy({"observation": data.observation, "reward": data.reward, "action": data.action}))
    target = to_numpy(target_params)["params"] if target_params else None
    return reference.objective(
        to_numpy(params)["params"], data, noise, hyper, encode_action, env.decode_state, target_params=target
    )


@pytest.fixture
def noise(monkeypatch):
    """Standard normal numbers that every sample of z takes, whatever its key."""
    numbers = np.random.default_rng(2).normal(size=(HORIZON, BATCH, LATENT))

    def normal(key, shape):
        assert shape == numbers.shape  # one z for each step of each trajectory
        return jnp.asarray(numbers, jnp.float32)

    monkeypatch.setattr(jax.random, "normal", normal)
    return numbers


@pytest.fixture
def no_noise(monkeypatch):
    """Every sample of z is its mean."""
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.zeros(shape))


SWITCHES = {
    "all": {},
    "no_session_mask": {"session_mask": False},
    "no_conditioning": {"conditioning": False},
    "no_consistency": {"consistency": False},
    "no_boundary_head": {"boundary_head": False},
    "chain": {"kl_target": "previous_belief"},
    "chain_without_conditioning": {"kl_target": "previous_belief", "conditioning": False},
    "action_alignment": {"boundary_alignment": "action"},
    "predicted": {"boundaries": "predicted"},
    "reset": {"reset_at_boundary": True},
    "predicted_without_session_mask": {"boundaries": "predicted", "session_mask": False},
    "predicted_without_conditioning": {"boundaries": "predicted", "conditioning": False},
    "nothing": {"session_mask": False, "conditioning": False, "consistency": False, "boundary_head": False},
}
SPACES = {"continuous_with_state": (False, True), "discrete_with_state": (True, True), "discrete": (True, False)}


@pytest.mark.parametrize("valid", [None, VALID], ids=["to_the_horizon", "ended"])
@pytest.mark.parametrize(
    "switches, space",
    [(name, "continuous_with_state") for name in SWITCHES]
    + [("all", "discrete"), ("predicted", "discrete"), ("nothing", "discrete"), ("all", "discrete_with_state")],
)
def test_loss_equals_the_slow_objective(switches, space, valid, noise):
    discrete, decodes = SPACES[space]
    env, hyper = drift(discrete, decodes), WEIGHTS.replace(**SWITCHES[switches])
    data = trajectories(discrete, valid=valid)
    belief, params = build(hyper, env)
    result, terms = belief.loss(params, data, jax.random.key(0), hyper)
    slow = expected(params, data, noise, hyper, env)
    np.testing.assert_allclose(result, slow["loss"], rtol=2e-5)
    present = {"loss", "reward_error", "kl"}
    present |= {
        name
        for name, used in (
            ("state_error", decodes),
            ("consistency", hyper.consistency),
            ("boundary", hyper.boundary_head),
        )
        if used
    }
    assert terms.keys() == present
    for name, value in terms.items():
        np.testing.assert_allclose(value, slow[name], rtol=5e-5, err_msg=name)


def test_the_cases_of_the_objective_hold_what_they_are_to_tell_apart():
    """Boundaries predicted here and missed there, none on the edge; hinge, masks and targets that matter."""
    belief, params = build()
    data = trajectories()
    logit = np.asarray(belief.encode(params, data).boundary_logit)
    assert np.abs(logit).min() > 1e-3
    assert 0.2 < (logit > 0).mean() < 0.8
    zero = np.zeros((HORIZON, BATCH, LATENT))
    losses = [
        expected(params, data, zero, WEIGHTS.replace(**changes), drift())["loss"] for changes in SWITCHES.values()
    ]
    gaps = np.abs(np.subtract.outer(losses, losses))[np.triu_indices(len(losses), 1)]
    assert gaps.min() > 1e-3


@pytest.mark.parametrize("switches", ["all", "predicted"])
def test_gradient_is_that_of_the_slow_objective_with_its_targets_held_fixed(switches, noise):
    """Along three random directions, by central differences in float64."""
    weights = {"consistency_weight": 20.0, "boundary_weight": 5.0}  # what has targets counts as much as the rest
    env, hyper, data = drift(), WEIGHTS.replace(**weights, **SWITCHES[switches]), trajectories()
    belief, params = build(hyper, env)
    gradient = to_numpy(jax.jit(jax.grad(lambda p: belief.loss(p, data, jax.random.key(0), hyper)[0]))(params))
    plain, step, gaps = to_numpy(params), 1e-6, []
    for seed in (11, 12, 13):
        direction = to_numpy(scattered(params, 1.0, seed))
        along = sum(np.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
        moved = [jax.tree.map(lambda p, d, s=s: p + s * d, plain, direction) for s in (step, -step)]
        fixed = [expected(p, data, noise, hyper, env, target_params=plain)["loss"] for p in moved]
        free = [expected(p, data, noise, hyper, env)["loss"] for p in moved]
        np.testing.assert_allclose(along, (fixed[0] - fixed[1]) / (2 * step), rtol=1e-3)
        gaps.append(abs((free[0] - free[1]) / (2 * step) - along) / abs(along))
    assert max(gaps) > 0.02  # targets that move with the parameters would show


@pytest.mark.parametrize("valid", [None, VALID], ids=["to_the_horizon", "ended"])
@pytest.mark.parametrize(
    "terms",
    [{"decode_terms": 3}, {"elbo_terms": 3}, {"elbo_terms": 2, "decode_terms": 2}],
    ids=lambda terms: "_".join(f"{name}{count}" for name, count in terms.items()),
)
def test_subsampled_reconstruction_estimates_the_whole_without_bias(terms, valid, no_noise):
    belief, params = build()
    data = trajectories(valid=valid)
    exact = belief.loss(params, data, jax.random.key(0), WEIGHTS)[1]
    hyper = WEIGHTS.replace(**terms)
    keys = jax.random.split(jax.random.key(1), 3000)
    estimates = jax.jit(jax.vmap(lambda key: belief.loss(params, data, key, hyper)[1]))(keys)
    assert estimates.keys() == exact.keys()
    for name in ("reward_error", "state_error"):
        draws = np.asarray(estimates[name], float)
        assert draws.std() > 0.01 * float(exact[name])  # it is an estimate
        assert abs(draws.mean() - float(exact[name])) < 4 * draws.std() / len(keys) ** 0.5, name
    for name in ("kl", "consistency", "boundary"):  # these are never subsampled
        np.testing.assert_allclose(estimates[name], exact[name], rtol=1e-5)


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("terms", [{}, {"decode_terms": 3, "elbo_terms": 4}], ids=["all_terms", "drawn_terms"])
def test_what_lies_behind_an_end_changes_neither_loss_nor_gradient(switches, terms):
    hyper = WEIGHTS.replace(**SWITCHES[switches], **terms)
    belief, params = build(hyper)
    data = trajectories(valid=VALID)
    loss = jax.jit(jax.value_and_grad(lambda params, data: belief.loss(params, data, jax.random.key(0), hyper)[0]))
    expected = loss(params, data)
    for result in (loss(params, behind_the_end(data, number)) for number in (0.0, 1e6)):
        for x, y in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)


def test_every_step_once_is_the_whole(no_noise):
    belief, params = build()
    data = trajectories()
    exact = belief.loss(params, data, jax.random.key(0), WEIGHTS)[0]
    shuffled = belief.loss(params, data, jax.random.key(5), WEIGHTS.replace(elbo_terms=HORIZON))[0]
    np.testing.assert_allclose(shuffled, exact, rtol=1e-5)


def test_samples_of_the_latent_have_the_deviation_of_the_belief():
    belief = Gaussian(jnp.array([1.0, -2.0]), jnp.log(jnp.array([4.0, 0.25])))
    z = np.asarray(jax.vmap(belief.sample)(jax.random.split(jax.random.key(0), 20_000)))
    np.testing.assert_allclose(z.mean(0), [1.0, -2.0], atol=0.06)
    np.testing.assert_allclose(z.std(0), [2.0, 0.5], rtol=0.03)


def test_expected_reward_is_the_mean_of_the_decoder_over_samples(monkeypatch):
    belief, params = build()
    z = Gaussian(jnp.array([0.3, -0.4]), jnp.array([0.5, -0.5]))
    rng = np.random.default_rng(3)
    numbers = rng.normal(size=(32, LATENT))
    draws = iter(numbers)
    observation, action, following = rng.normal(size=(3, 4, 2))
    # Under vmap the patched draw is made once: every sample is the same.
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.asarray(next(draws), jnp.float32))
    reward = belief.decode_reward(params, z, jax.random.key(0), *map(jnp.asarray, (observation, action, following)))
    sample = np.asarray(z.mean) + np.exp(np.asarray(z.log_variance) / 2) * numbers[0]
    decoder = to_numpy(params)["params"]["reward_decoder"]
    slow = [
        reference.mlp(decoder, np.concatenate([observation[k], np.clip(action[k], -1, 1), following[k], sample]))[0]
        for k in range(4)
    ]
    np.testing.assert_allclose(reward, slow, rtol=2e-5)


# -- gradients, and who decides a boundary ------------------------------------------------------------------------


def summed(state: BeliefState):
    """A number that moves with every belief and every conditioning belief."""
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((state.hidden, state.belief, state.previous)))


def test_no_gradient_passes_the_gate_of_the_boundary_head():
    belief, params = build()
    data = trajectories()
    through_beliefs = jax.grad(lambda params: summed(belief.encode(params, data)))(params)["params"]["encoder"]
    assert_same(through_beliefs["boundary"], jax.tree.map(jnp.zeros_like, through_beliefs["boundary"]))
    for name in ("input", "input_gates", "recurrent_gates", "previous_gates", "head"):
        assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(through_beliefs[name])), name


def test_the_boundary_head_learns_from_its_cross_entropy_alone():
    belief, params = build()
    data = trajectories()

    def loss(params, hyper):
        return belief.loss(params, data, jax.random.key(0), hyper)[0]

    gradient = jax.jit(jax.grad(loss))
    without, head = (
        gradient(params, WEIGHTS.replace(boundary_weight=weight))["params"]["encoder"]["boundary"]
        for weight in (0.0, 1.0)
    )
    assert_same(without, jax.tree.map(jnp.zeros_like, without))
    assert jnp.abs(head["bias"]) > 0


def test_labels_never_reach_the_beliefs():
    belief, params = build()
    states = belief.encode(params, trajectories())
    assert_same(states, belief.encode(params, trajectories(session=np.zeros_like(SESSION))))
    assert_same(states, belief.encode(params, trajectories(session=SESSION[:, ::-1].copy())))


def with_boundary_bias(params, bias):
    """The same parameters, with a boundary predicted always or never."""
    encoder = dict(params["params"]["encoder"])
    encoder["boundary"] = {**encoder["boundary"], "bias": jnp.full(1, bias)}
    return {"params": {**params["params"], "encoder": encoder}}


def test_the_predicted_boundary_decides_what_conditions_the_encoder():
    belief, params = build()
    data = trajectories()
    always, never = (belief.encode(with_boundary_bias(params, bias), data) for bias in (50.0, -50.0))
    before = jax.tree.map(lambda x: jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]]), always.belief)
    assert_same(always.previous, before)  # the belief that stood one step ago
    assert_same(never.previous, jax.tree.map(jnp.zeros_like, never.previous))  # standard normal
    assert bool(belief.boundary(always).all()) and not bool(belief.boundary(never).any())
    # At t = 0 the two have the same evidence and at t = 1 the same condition; from t = 2 on they differ.
    np.testing.assert_allclose(always.belief.mean[:2], never.belief.mean[:2], atol=1e-6)
    assert jnp.all(jnp.abs(always.belief.mean[2:] - never.belief.mean[2:]).max(-1) > 1e-4)


def test_a_boundary_is_predicted_above_probability_one_half():
    belief, params = build()
    state = belief.initial((3,)).replace(boundary_logit=jnp.array([-1e-3, 0.0, 1e-3]))
    assert belief.boundary(state).tolist() == [False, False, True]


LEARNT = ("belief_params", "belief_learner", "belief_optimiser", "policy_params")


def test_ppo_moves_the_policy_and_no_number_of_the_belief():
    config, env = tiny_config("probe_match", ppo={"lr": 0.1}), registry.make("probe_match", horizon=3)
    algorithm = MetaPPO(config, Agent.build(config, env, LatentBelief.build(config, env)))
    envs = config.num_envs
    rng = np.random.default_rng(4)

    shapes: Any = jax.eval_shape(partial(algorithm.init, env), jnp.asarray(0))
    features = shapes.normaliser.mean.features.value.shape[0]
    before = shapes.replace(
        **{name: scattered(getattr(shapes, name)) for name in LEARNT},
        policy_optimiser=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.policy_optimiser),
        normaliser=running_statistics.init(features, env.observation_size),
        **dict.fromkeys(("environment", "key", "faults")),  # nothing that learns
        meta_updates=jnp.asarray(0),
    )
    rollout = Rollout(
        observation=jnp.ones((4, envs, 1)),
        action=jnp.asarray(rng.integers(0, 2, (3, envs))),
        reward=jnp.asarray(rng.normal(size=(3, envs)), jnp.float32),
        terminated=jnp.zeros((3, envs), bool),
        session=jnp.zeros((3, envs), jnp.int32),
        features=jnp.asarray(rng.normal(size=(4, envs, features)), jnp.float32),
        log_prob=jnp.full((3, envs), np.log(0.5), jnp.float32),
        value=jnp.zeros((4, envs)),
        boundary=jnp.zeros((3, envs), bool),
        valid=jnp.ones((3, envs), bool),
    )
    update = jax.jit(partial(algorithm.update_policy, env))
    _, samples = algorithm.policy_samples(rollout, config.ppo, before)
    after, _ = update(rollout, samples, config.ppo, before, jax.random.key(0))
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        name = jax.tree_util.keystr(path)
        if "policy" not in name:
            np.testing.assert_array_equal(x, y, err_msg=name)
        elif "kernel" in name and "params" in name:
            assert not np.array_equal(x, y), name


# -- VariBAD ------------------------------------------------------------------------------------------------------


def test_varibad_is_dynamite_without_what_knows_of_sessions():
    vae = varibad.configure(Config(vae=WEIGHTS)).vae
    assert vae == WEIGHTS.replace(
        session_mask=False,
        conditioning=False,
        consistency=False,
        boundary_head=False,
        kl_target="previous_belief",
    )
    configs.validate(varibad.configure(Config()))


def test_dynamite_of_one_session_with_its_switches_off_is_varibad():
    """p = 0: the mask covers the episode, and without the parts that know of sessions nothing else is left."""
    off = {"conditioning": False, "consistency": False, "boundary_head": False, "kl_target": "previous_belief"}
    dynamite = WEIGHTS.replace(**off)
    data = trajectories(session=np.zeros_like(SESSION))
    belief, params = build(dynamite)
    hypers = (dynamite, varibad.configure(Config(vae=WEIGHTS)).vae)
    assert hypers[0] != hypers[1]
    one, other = (
        jax.value_and_grad(belief.loss, has_aux=True)(params, data, jax.random.key(0), hyper) for hyper in hypers
    )
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)


def test_varibad_reconstructs_the_whole_episode_and_chains_its_beliefs(noise):
    hyper = varibad.configure(Config(vae=WEIGHTS)).vae
    belief, params = build(hyper)
    data = trajectories()
    result = belief.loss(params, data, jax.random.key(0), hyper)[0]
    networks, plain = to_numpy(params)["params"], to_numpy(data)
    total = 0.0
    for b in range(BATCH):
        observation, action = plain.observation[:, b], np.clip(plain.action[:, b], -1, 1)
        history = (observation, action, plain.reward[:, b], np.zeros(2))
        beliefs, _ = reference.encode(networks, *history, conditioning=False, boundary_head=False)
        for t, (mean, log_variance) in enumerate(beliefs):
            z = mean + np.exp(log_variance / 2) * noise[t, b]
            for j in range(HORIZON):
                inputs = np.concatenate([observation[j], action[j]])
                reward = reference.mlp(networks["reward_decoder"], np.concatenate([inputs, observation[j + 1], z]))[0]
                following = observation[j] + reference.mlp(networks["state_decoder"], np.concatenate([inputs, z]))
                total += hyper.reward_weight * (reward - plain.reward[j, b]) ** 2 / 2
                total += hyper.state_weight * ((following - observation[j + 1]) ** 2).sum() / 2
            before = beliefs[t - 1] if t else reference.standard_normal(LATENT)
            total += hyper.kl_weight * reference.kl((mean, log_variance), before)
    np.testing.assert_allclose(result, total / (HORIZON * BATCH), rtol=2e-5)


def test_varibad_ignores_the_labels():
    hyper = varibad.configure(Config(vae=WEIGHTS.replace(decode_terms=3, elbo_terms=4))).vae
    belief, params = build(hyper)
    key = jax.random.key(0)
    loss = jax.jit(lambda data: belief.loss(params, data, key, hyper))
    expected = loss(trajectories())
    for session in (np.zeros_like(SESSION), SESSION[:, ::-1].copy(), np.tile(np.arange(HORIZON), (BATCH, 1)).T):
        assert_same(loss(trajectories(session=session.astype(np.int32))), expected)


def test_boundaries_are_learnt_without_labels_where_predicted():
    hyper = WEIGHTS.replace(boundaries="predicted")
    belief, params = build(hyper)

    def loss(data):
        return belief.loss(params, data, jax.random.key(0), hyper)

    assert_same(loss(trajectories(session=np.zeros_like(SESSION))), loss(trajectories()))


def test_dynamite_does_not_ignore_the_labels():
    belief, params = build()
    losses = [
        float(belief.loss(params, trajectories(session=session), jax.random.key(0), WEIGHTS)[0])
        for session in (SESSION, np.zeros_like(SESSION))
    ]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_every_switch_of_the_objective_is_tested():
    """A new switch of `VAEConfig` needs a case above."""
    tested = {name for changes in SWITCHES.values() for name in changes}
    switches = {f.name for f in dataclasses.fields(VAEConfig) if not isinstance(f.default, int | float)}
    switches |= {f.name for f in dataclasses.fields(VAEConfig) if isinstance(f.default, bool)}
    assert switches == tested | {"posterior"}  # its other value is another objective, with tests of its own
