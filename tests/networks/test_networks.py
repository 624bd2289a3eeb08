"""The networks: the encoder's gates against flax's cell, decoders and heads against NumPy."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import numpy_elbo as reference
from dynamite_jax.agents.actor_critic import ActorCritic, bounded
from dynamite_jax.data.types import BeliefState, Gaussian
from dynamite_jax.networks.belief_model import BeliefModel
from dynamite_jax.networks.gru import Encoder
from dynamite_jax.networks.mlp import MLP, GaussianHead

HIDDEN, LATENT, EMBEDDING, OBSERVATION, ACTION, BATCH = 6, 3, 5, 4, 2, 5
EMBED = OBSERVATION + ACTION + 1


def scattered(shapes, seed=0, scale=0.5):
    """Normal numbers in the shapes of a pytree, so that no bias is zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(scale * rng.normal(size=x.shape), jnp.float32), shapes)


def apply(module, params, *inputs, method=None) -> Any:
    """What flax types as anything or a tuple."""
    return module.apply(params, *inputs, method=method)


def parameters(module, *inputs, seed=0):
    return scattered(jax.eval_shape(module.init, jax.random.key(0), *inputs), seed)


def to_numpy(tree):
    return jax.tree.map(lambda x: np.asarray(x, float), tree)


def inputs(seed=1, batch=(BATCH,)):
    rng = np.random.default_rng(seed)
    shapes = ((*batch, OBSERVATION), (*batch, ACTION), batch)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def encoder(conditioning, boundary_head):
    module = Encoder(HIDDEN, EMBEDDING, LATENT, conditioning, boundary_head)
    return module, parameters(module, module.initial((BATCH,)), *inputs())


def some_state(seed=2) -> BeliefState:
    """A state in mid-episode."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    beliefs = [Gaussian(draw(BATCH, LATENT), draw(BATCH, LATENT)) for _ in range(2)]
    return BeliefState(draw(BATCH, HIDDEN), beliefs[0], beliefs[1], draw(BATCH))


def grucell(params):
    """The encoder's weights in the names of flax: input biases of r and z, and of n inside and outside the reset."""

    def part(name, which, k):
        return params[name][which][..., k * HIDDEN : (k + 1) * HIDDEN]

    cell = {}
    for k, gate in enumerate("rzn"):
        bias_in, bias_h = (part(name, "bias", k) for name in ("input_gates", "recurrent_gates"))
        cell[f"i{gate}"] = {
            "kernel": part("input_gates", "kernel", k),
            "bias": bias_in if gate == "n" else bias_in + bias_h,
        }
        cell[f"h{gate}"] = {"kernel": part("recurrent_gates", "kernel", k)}
    cell["hn"]["bias"] = part("recurrent_gates", "bias", 2)
    return {"params": cell}


def test_encoder_without_conditioning_is_the_gru_of_flax():
    module, params = encoder(conditioning=False, boundary_head=False)
    weights = params["params"]
    state, hidden = module.initial((BATCH,)), jnp.zeros((BATCH, HIDDEN))
    for t in range(4):
        observation, action, reward = inputs(t)
        embedded = jnp.concatenate([observation, action, reward[:, None]], -1) @ weights["input"]["kernel"]
        embedded = jnp.maximum(embedded + weights["input"]["bias"], 0.0)
        hidden, _ = apply(nn.GRUCell(HIDDEN), grucell(weights), hidden, embedded)
        state = apply(module, params, state, observation, action, reward)
        np.testing.assert_allclose(state.hidden, hidden, atol=1e-6)


@pytest.mark.parametrize("boundary_head", [True, False])
def test_conditioning_by_a_standard_normal_belief_changes_nothing(boundary_head):
    """So the first session, up to the first boundary predicted, is encoded as without conditioning."""
    module, params = encoder(True, boundary_head)
    plain = Encoder(HIDDEN, EMBEDDING, LATENT, False, boundary_head)
    weights = {"params": {name: w for name, w in params["params"].items() if name != "previous_gates"}}
    state = some_state().replace(previous=Gaussian.standard((BATCH, LATENT)))
    result, expected = apply(module, params, state, *inputs()), apply(plain, weights, state, *inputs())
    np.testing.assert_allclose(result.hidden, expected.hidden, atol=1e-6)
    assert params["params"]["previous_gates"].keys() == {"kernel"}  # a bias would tell


def test_conditioning_adds_mean_and_log_variance_of_the_previous_belief_to_all_gates():
    module, params = encoder(True, False)
    state, arguments = some_state(), inputs()
    kernel = params["params"]["previous_gates"]["kernel"]
    embedded = apply(module, params, *arguments, method="embed")
    shift = jnp.concatenate([state.previous.mean, state.previous.log_variance], -1) @ kernel
    plain = Encoder(HIDDEN, EMBEDDING, LATENT, False, False)
    expected = apply(plain, params, state, embedded + shift, method="step")
    np.testing.assert_allclose(apply(module, params, state, *arguments).hidden, expected.hidden, atol=1e-6)


def test_a_predicted_boundary_moves_the_belief_before_the_step_to_previous():
    module, params = encoder(True, True)
    state = some_state()
    after = apply(module, params, state, *inputs())
    logit = np.asarray(after.hidden) @ np.asarray(params["params"]["boundary"]["kernel"])[:, 0]
    logit += np.asarray(params["params"]["boundary"]["bias"])
    np.testing.assert_allclose(after.boundary_logit, logit, rtol=1e-4, atol=1e-5)
    assert 0 < (logit > 0).sum() < BATCH
    for b in range(BATCH):
        expected = state.belief if logit[b] > 0 else state.previous
        np.testing.assert_array_equal(after.previous.mean[b], expected.mean[b])
        np.testing.assert_array_equal(after.previous.log_variance[b], expected.log_variance[b])


def test_without_a_boundary_head_no_boundary_is_ever_predicted():
    module, params = encoder(True, False)
    state = module.initial((BATCH,))
    for t in range(3):
        state = apply(module, params, state, *inputs(t))
    np.testing.assert_array_equal(state.boundary_logit, -np.inf)
    np.testing.assert_array_equal(state.previous.mean, 0.0)
    np.testing.assert_array_equal(state.previous.log_variance, 0.0)


def test_an_encoder_starts_without_history_and_with_standard_normal_beliefs():
    state = Encoder(HIDDEN, EMBEDDING, LATENT, True, True).initial((2, 3))
    assert state.hidden.shape == (2, 3, HIDDEN) and state.boundary_logit.shape == (2, 3)
    for belief in (state.belief, state.previous):
        assert belief.mean.shape == (2, 3, LATENT)
        np.testing.assert_array_equal(belief.mean, 0.0)
        np.testing.assert_array_equal(jnp.exp(belief.log_variance), 1.0)
    np.testing.assert_array_equal(state.hidden, 0.0)


def test_gaussian_head_is_linear_with_log_variances_in_their_range():
    head = GaussianHead(LATENT)
    x = jnp.asarray(np.random.default_rng(3).normal(size=(BATCH, HIDDEN)), jnp.float32)
    params = parameters(head, x)
    gaussian = apply(head, params, x)
    for b in range(BATCH):
        mean, log_variance = reference.gaussian(to_numpy(params)["params"], np.asarray(x[b], float))
        np.testing.assert_allclose(gaussian.mean[b], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(gaussian.log_variance[b], log_variance, rtol=1e-4, atol=1e-5)
    for scale, end in ((1e4, 4.0), (-1e4, -10.0)):
        beyond = jax.tree.map(jnp.zeros_like, params)
        beyond["params"]["Dense_0"]["bias"] = jnp.full(2 * LATENT, scale)
        np.testing.assert_array_equal(apply(head, beyond, x).log_variance, end)
        np.testing.assert_array_equal(apply(head, beyond, x).mean, scale)


@pytest.mark.parametrize("activation", ["relu", "tanh", "silu"])
def test_mlp_has_the_activation_between_its_layers_and_a_linear_end(activation):
    functions = {"relu": lambda x: np.maximum(x, 0.0), "tanh": np.tanh, "silu": lambda x: x / (1 + np.exp(-x))}
    module = MLP((7, 6), 3, activation)
    x = jnp.asarray(np.random.default_rng(4).normal(size=(BATCH, 4)), jnp.float32)
    params = parameters(module, x)
    expected = [reference.mlp(to_numpy(params)["params"], np.asarray(row, float), functions[activation]) for row in x]
    np.testing.assert_allclose(apply(module, params, x), np.array(expected), rtol=1e-4, atol=1e-5)


def model(decode_state=True, dynamics_prior=True, conditioning=True, boundary_head=True):
    module = BeliefModel(
        Encoder(HIDDEN, EMBEDDING, LATENT, conditioning, boundary_head), (8,), OBSERVATION, decode_state, dynamics_prior
    )
    return module, parameters(module, module.encoder.initial((BATCH,)), *inputs())


def test_decoders_take_step_and_latent_and_the_next_state_is_a_change_of_the_state():
    module, params = model()
    (s, a, _), (following, _, _) = inputs(5), inputs(6)
    z = some_state().belief.mean
    reward = apply(module, params, s, a, following, z, method="decode_reward")
    state = apply(module, params, s, a, z, method="decode_next")
    assert reward.shape == (BATCH,) and state.shape == (BATCH, OBSERVATION)
    networks, (s, a, following, z) = to_numpy(params)["params"], to_numpy((s, a, following, z))
    for b in range(BATCH):
        expected = reference.mlp(networks["reward_decoder"], np.concatenate([s[b], a[b], following[b], z[b]]))[0]
        np.testing.assert_allclose(reward[b], expected, rtol=1e-4, atol=1e-5)
        expected = s[b] + reference.mlp(networks["state_decoder"], np.concatenate([s[b], a[b], z[b]]))
        np.testing.assert_allclose(state[b], expected, rtol=1e-4, atol=1e-5)


def test_the_prior_of_the_next_session_reads_mean_and_log_variance():
    module, params = model()
    previous = some_state().previous
    prior = apply(module, params, previous, method="prior")
    for b in range(BATCH):
        belief = tuple(np.asarray(x[b], float) for x in (previous.mean, previous.log_variance))
        mean, log_variance = reference.prior(to_numpy(params)["params"], belief)
        np.testing.assert_allclose(prior.mean[b], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(prior.log_variance[b], log_variance, rtol=1e-4, atol=1e-5)


def test_a_model_has_the_networks_that_it_uses_and_no_others():
    everything = {"encoder", "reward_decoder", "state_decoder", "prior_body", "prior_head"}
    params = model()[1]["params"]
    assert params.keys() == everything
    assert params["encoder"].keys() == {"input", "input_gates", "recurrent_gates", "previous_gates", "head", "boundary"}
    bare = model(False, False, False, False)[1]["params"]
    assert bare.keys() == {"encoder", "reward_decoder"}
    assert bare["encoder"].keys() == {"input", "input_gates", "recurrent_gates", "head"}


def features(count=64):
    return jnp.asarray(np.random.default_rng(7).normal(size=(count, 6)), jnp.float32)


@pytest.mark.parametrize("continuous", [True, False])
def test_policy_and_value_are_networks_of_their_own(continuous):
    module = ActorCritic((7,), (8,), 3, continuous, "tanh")
    params = parameters(module, features(2))
    policy, value = apply(module, params, features(2))
    networks = to_numpy(params)["params"]
    for b, x in enumerate(np.asarray(features(2), float)):
        expected = reference.mlp(networks["policy"], x, np.tanh)
        if continuous:
            expected = np.concatenate([expected, networks["log_std"]])
        np.testing.assert_allclose(policy[b], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(value[b], reference.mlp(networks["value"], x, np.tanh)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("continuous, deviation", [(False, 1.0), (True, 1.0), (True, 0.25)])
def test_a_fresh_policy_is_nearly_the_same_everywhere(continuous, deviation):
    """Uniform over discrete actions; mean near 0 and the deviation asked for with continuous ones."""
    module = ActorCritic((32,), (32,), 3, continuous, "tanh", deviation)
    params = jax.jit(module.init)(jax.random.key(0), features(2))
    policy, value = apply(module, params, features())
    assert jnp.abs(policy[:, :3]).max() < 0.05
    np.testing.assert_allclose(policy[:, 3:], np.log(deviation), rtol=1e-6)
    assert value.std() > 0.1  # the critic starts at full scale


def test_the_deviation_of_actions_stays_within_its_bounds():
    module = ActorCritic((4,), (4,), 3, True, "tanh", deviation_bounds=(0.1, 4.0))
    params = module.init(jax.random.key(0), jnp.zeros((2, 5)))
    params = {"params": {**params["params"], "log_std": jnp.log(jnp.array([1e-5, 0.7, 86.0]))}}
    deviation = jnp.exp(apply(module, params, jnp.zeros((2, 5)))[0][:, 3:])
    np.testing.assert_allclose(deviation, [[0.1, 0.7, 4.0]] * 2, rtol=1e-6)


@pytest.mark.parametrize("x, leads", [(-3.0, "up"), (-2.0, "up"), (0.5, "both"), (2.0, "down"), (9.0, "down")])
def test_the_gradient_at_a_bound_leads_back_and_never_on(x, leads):
    """Descent moves against the gradient: one that would move x on beyond -2 or 2 is dropped, one back is kept."""
    for slope in (1.5, -1.5):
        gradient = jax.grad(lambda x, slope=slope: slope * bounded(x, -2.0, 2.0))(x)
        moves = "down" if slope > 0 else "up"
        assert gradient == (slope if leads in (moves, "both") else 0.0)


def test_descent_comes_back_from_a_bound():
    """Pushed on for 50 steps, then back: with the gradient of a plain clip it would stay."""
    x = jnp.float32(0.0)
    for k in range(100):
        aim = 5.0 if k < 50 else 0.0
        x -= 0.2 * jax.grad(lambda x, aim=aim: 0.5 * (bounded(x, -2.0, 2.0) - aim) ** 2)(x)
        assert k != 49 or float(jnp.clip(x, -2.0, 2.0)) == 2.0
    assert abs(float(x)) < 0.01
