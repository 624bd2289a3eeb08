"""The PyTorch reference computes what this project computes: the same weights, batches and states on both sides."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from torch_weights import module_with, tensor, torch  # isort: skip  (first: it skips where there is no PyTorch)

from dynamite_envs.spaces import Box, Discrete
from dynamite_jax.agents.actor_critic import ActorCritic as JaxActorCritic
from dynamite_jax.agents.distributions import policy_distribution
from dynamite_jax.algorithms import ppo as jax_ppo
from dynamite_jax.algorithms.optimisation import optimiser
from dynamite_jax.beliefs import elbo as jax_elbo
from dynamite_jax.config import Config, PPOConfig
from dynamite_jax.methods import varibad
from episodes import BATCH, HORIZON, LATENT, NETWORK, WEIGHTS, build, drift, scattered, trajectories
from experiments.versus_torch.torch_reference import elbo, ppo, weights
from experiments.versus_torch.torch_reference.networks import ActorCritic, BeliefModel
from experiments.versus_torch.torch_reference.trainer import Moments, Trainer

PRECISIONS = {"float32": 1e-5, "float64": 1e-10}
SWITCHES = {
    "all": {},
    "no_session_mask": {"session_mask": False},
    "no_conditioning": {"conditioning": False},
    "no_consistency": {"consistency": False},
    "no_boundary_head": {"boundary_head": False},
    "chain": {"kl_target": "previous_belief"},
    "action_alignment": {"boundary_alignment": "action"},
    "subsampled": {"decode_terms": 3},
    "varibad": {
        name: getattr(varibad.configure(Config()).vae, name)
        for name in ("session_mask", "conditioning", "consistency", "boundary_head", "kl_target")
    },
}


@pytest.fixture(params=PRECISIONS)
def precision(request):
    """JAX and PyTorch in one precision; gives its NumPy type and the relative tolerance."""
    double = request.param == "float64"
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    with jax.enable_x64(double):
        yield np.dtype(request.param), PRECISIONS[request.param]
    torch.set_default_dtype(torch.float32)


def of_type(tree, kind):
    """Real numbers in a precision, the rest as it is."""
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x), kind if np.asarray(x).dtype.kind == "f" else None), tree)


def assert_close(result, expected, tolerance, name=""):
    """Arrays agree relative to the largest number of the expected one."""
    result, expected = np.asarray(result), np.asarray(expected)
    assert result.shape == expected.shape, name
    assert result.dtype == expected.dtype, name
    gap, scale = np.abs(result - expected).max(), np.abs(expected).max()
    assert np.isfinite(scale), name
    assert gap <= tolerance * scale, f"{name}: {gap:.2e} of {scale:.2e}"


def assert_same_gradients(module, expected, tolerance):
    expected = weights.from_flax(expected["params"])
    result = dict(module.named_parameters())
    assert result.keys() == expected.keys()
    for name, parameter in result.items():
        assert_close(parameter.grad.numpy(), expected[name], tolerance, name)


@pytest.fixture(params=["discrete", "continuous_with_state"])
def space(request):
    """Whether actions are discrete, and whether states are decoded."""
    return request.param == "discrete", request.param != "discrete"


def both_beliefs(switches, space, kind):
    """A belief, its parameters, a batch, and the same in PyTorch: model, episodes, action before the first."""
    discrete, decodes = space
    hyper, env, data = WEIGHTS.replace(**SWITCHES[switches]), drift(discrete, decodes), trajectories(discrete)
    belief, params = build(hyper, env)
    params, data = of_type(params, kind), of_type(data, kind)
    config = SimpleNamespace(network=NETWORK, vae=hyper)
    model = module_with(BeliefModel(config, 2, env.action_space.size, decode_state=decodes), params)
    encoded, start = (env.action_space.encode(a) for a in (data.action, env.action_space.zeros(())))
    encoded, start = of_type(encoded, kind), of_type(start, kind)
    episodes = elbo.Episodes(*map(tensor, (data.observation, encoded, data.reward, data.session)))
    return hyper, belief, params, data, model, episodes, tensor(start)


@pytest.mark.parametrize("switches", ["all", "no_conditioning", "no_boundary_head"])
def test_encoders_give_the_same_beliefs_and_boundaries(switches, space, precision):
    kind, tolerance = precision
    hyper, belief, params, data, model, episodes, start = both_beliefs(switches, space, kind)
    states = belief.encode(params, data)
    if hyper.boundary_head:
        assert 0.1 < np.mean(np.asarray(states.boundary_logit) > 0) < 0.9
    with torch.no_grad():
        result, logit = model.encoder.encode(elbo.evidence(episodes, start))
    assert_close(result, states.belief.features, tolerance)
    if hyper.boundary_head:
        assert_close(logit, states.boundary_logit, tolerance)


@pytest.mark.parametrize("switches", SWITCHES)
def test_each_term_of_the_elbo_and_every_gradient_agree(switches, space, precision):
    kind, tolerance = precision
    hyper, belief, params, data, model, episodes, start = both_beliefs(switches, space, kind)
    key = jax.random.key(3)
    both = jax.jit(jax.value_and_grad(lambda params: belief.loss(params, data, key, hyper), has_aux=True))
    (loss, terms), gradient = both(params)
    _, z_key, decode_key = jax.random.split(key, 3)
    noise = jax.random.normal(z_key, (HORIZON, BATCH, LATENT))
    first, last = elbo.reconstructed(episodes.session, hyper)
    if hyper.decode_terms:
        chosen = jax_elbo.decode_steps(decode_key, jnp.asarray(first.numpy()), jnp.asarray(last.numpy()), 3)
    else:
        chosen = np.broadcast_to(np.arange(HORIZON), (HORIZON, BATCH, HORIZON))
    draws = elbo.Draws(tensor(noise), tensor(chosen).long())
    result, result_terms = elbo.loss(model, episodes, start=start, draws=draws, vae=hyper)
    result.backward()
    assert result_terms.keys() == terms.keys()
    for name, value in terms.items():
        assert_close(result_terms[name].detach().numpy(), value, tolerance, name)
    assert_same_gradients(model, gradient, tolerance)
    assert_close(result.detach().numpy(), loss, tolerance)


def test_steps_decoded_lie_one_in_each_part_of_a_session():
    session = torch.from_numpy(np.array(trajectories().session))
    first, last = elbo.session_bounds(session)
    vae = SimpleNamespace(decode_terms=4, session_mask=True)
    episodes = elbo.Episodes(torch.zeros(0), torch.zeros(0), torch.zeros(0), session)
    drawn = torch.stack([elbo.draw(episodes, LATENT, vae).decoded for _ in range(400)])
    assert ((drawn >= first[..., None]) & (drawn <= last[..., None])).all()
    length = (last - first + 1)[..., None]
    part = (drawn - first[..., None]) / length
    edges = torch.arange(4) / 4
    assert (part >= edges - 1 / length).all()
    assert (part < edges + 0.25).all()
    # Every step of a session is decoded equally often.
    mean = drawn.double().mean((0, 3))
    torch.testing.assert_close(mean, (first + last).double() / 2, atol=0.15, rtol=0)


@pytest.mark.parametrize("discrete", [True, False])
def test_the_loss_of_the_policy_and_every_gradient_agree(discrete, precision):
    kind, tolerance = precision
    rng, n, features = np.random.default_rng(5), 24, 6
    action_space = Discrete(3) if discrete else Box(3)
    network = dataclasses.replace(NETWORK, policy_hidden=(5, 4), value_hidden=(3,), action_deviation=0.4)
    theirs: Any = JaxActorCritic(network.policy_hidden, network.value_hidden, 3, not discrete, "tanh", 0.4)
    params = scattered(jax.eval_shape(theirs.init, jax.random.key(0), jnp.zeros((1, features))))
    params = of_type(params, kind)
    drawn: dict[str, Any] = dict(
        features=rng.normal(size=(n, features)),
        action=rng.integers(0, 3, n) if discrete else rng.normal(size=(n, 3)),
        log_prob=np.zeros(n),
        value=rng.normal(size=n),
        advantage=rng.normal(size=n),
        target=rng.normal(size=n),
        valid=np.ones(n, bool),
    )
    batch = of_type(jax_ppo.Samples(**drawn), kind)
    policy, _ = theirs.apply(params, batch.features)
    before = policy_distribution(policy, action_space).log_prob(batch.action)
    batch = batch.replace(log_prob=before + jnp.asarray(rng.normal(0.0, 0.3, n), kind))
    hyper = PPOConfig(clip=0.2, entropy=0.07, value_weight=0.6)

    def loss(params):
        policy, value = theirs.apply(params, batch.features)
        return jax_ppo.loss(policy, value, batch, action_space, hyper)

    (expected, terms), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    assert 0.1 < float(terms["clip_fraction"]) < 0.95
    module = module_with(ActorCritic(network, features, 3, continuous=not discrete), params)
    columns = (batch.features, batch.action, batch.log_prob, batch.value, batch.advantage, batch.target)
    samples = ppo.Samples(*map(tensor, columns))
    policy, value = module(samples.features)
    result, result_terms = ppo.loss(policy, value, samples, continuous=not discrete, hyper=hyper)
    result.backward()
    assert_close(result.detach().numpy(), expected, tolerance)
    for name, value in result_terms.items():
        assert_close(value.detach().numpy(), terms[name], tolerance, name)
    assert_same_gradients(module, gradient, tolerance)


def test_advantages_agree(precision):
    kind, tolerance = precision
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=(8, 4)).astype(kind), rng.normal(size=(9, 4)).astype(kind)
    terminated = rng.random((8, 4)) < 0.2
    result = ppo.advantages(tensor(reward), tensor(terminated), tensor(value), gamma=0.97, lambda_=0.8)
    expected = jax_ppo.advantages(jnp.asarray(reward), jnp.asarray(terminated), jnp.asarray(value), 0.97, 0.8)
    assert_close(result, expected, tolerance)


@pytest.mark.parametrize("bound", [0.1, 100.0])
def test_steps_of_the_optimisers_agree(bound, precision):
    """Where the norm is bound and where it is not."""
    kind, tolerance = precision
    rng = np.random.default_rng(1)
    params = {"a": rng.normal(size=(3, 2)).astype(kind), "b": rng.normal(size=4).astype(kind)}
    adam = optimiser(0.01, bound)
    state, theirs = adam.init(params), params
    ours = {name: torch.nn.Parameter(tensor(x)) for name, x in params.items()}
    trainer: Any = SimpleNamespace(policy=torch.nn.ParameterDict(ours))
    descent = torch.optim.Adam(trainer.policy.parameters(), lr=0.01, fused=True)
    for _ in range(5):
        gradient = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(kind), params)
        change, state = adam.update(gradient, state)
        theirs = jax.tree.map(lambda x, d: x + d, theirs, change)
        loss: Any = sum((ours[name] * tensor(gradient[name])).sum() for name in params)
        Trainer._descend(trainer, descent, trainer.policy, loss=loss, max_norm=bound)
    for name, x in theirs.items():
        # PyTorch divides by the norm and a millionth.
        assert_close(ours[name].detach().numpy(), x, max(tolerance, 1e-6), name)


def test_running_moments_are_those_of_all_data():
    rng = np.random.default_rng(0)
    moments, batches = Moments(3), [rng.normal(2.0, 5.0, (n, 3)).astype(np.float32) for n in (7, 1, 40)]
    torch.testing.assert_close(moments.normalise(torch.full((1, 3), 9.0), 5.0), torch.full((1, 3), 5.0))
    for batch in batches:
        moments.update(torch.from_numpy(batch))
    everything = np.concatenate(batches)
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.deviation, everything.std(0), rtol=1e-5)


def test_weights_go_both_ways():
    _, params = build()
    back = weights.to_flax(weights.from_flax(params["params"]), params["params"])
    jax.tree.map(np.testing.assert_array_equal, back, jax.tree.map(np.asarray, params["params"]))
