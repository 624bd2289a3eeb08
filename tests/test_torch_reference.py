"""The PyTorch reference computes what this project computes: the same weights, batches and states on both sides."""

import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import build as build_program
from conftest import tiny_config
from episodes import BATCH, HORIZON, LATENT, NETWORK, WEIGHTS, build, drift, scattered, statistics, trajectories

from dynamite_jax import config as configs
from dynamite_jax import elbo as jax_elbo
from dynamite_jax import ppo as jax_ppo
from dynamite_jax.config import Config, PPOConfig
from dynamite_jax.methods import varibad
from dynamite_jax.networks import ActorCritic as JaxActorCritic
from dynamite_jax.train_step import optimiser, policy_samples, remaining
from dynamite_jax.types import Rollout, Trajectories
from envs import registry
from envs.dlcmdp import Box, Discrete
from envs.halfcheetah import Task

torch: Any = pytest.importorskip("torch", reason="PyTorch is an extra: make setup EXTRAS=torch")

from experiments import jax_program  # noqa: E402
from experiments.torch_reference import elbo, environments, ppo, weights  # noqa: E402
from experiments.torch_reference.networks import ActorCritic, BeliefModel  # noqa: E402
from experiments.torch_reference.trainer import Moments, Trainer  # noqa: E402

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


def tensor(x) -> Any:
    return torch.from_numpy(np.array(x))


def module_with(module, params):
    """A PyTorch module with the weights of its counterpart."""
    module.load_state_dict({name: tensor(x) for name, x in weights.from_flax(params["params"]).items()})
    return module


def assert_close(found, expected, tolerance, name=""):
    """Arrays agree relative to the largest number of the expected one."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, name
    assert found.dtype == expected.dtype, name
    gap, scale = np.abs(found - expected).max(), np.abs(expected).max()
    assert np.isfinite(scale), name
    assert gap <= tolerance * scale, f"{name}: {gap:.2e} of {scale:.2e}"


def assert_same_gradients(module, expected, tolerance):
    expected = weights.from_flax(expected["params"])
    found = dict(module.named_parameters())
    assert found.keys() == expected.keys()
    for name, parameter in found.items():
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
    model = module_with(BeliefModel(config, 2, env.action_space.size, decodes), params)
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
        found, logit = model.encoder.encode(elbo.evidence(episodes, start))
    assert_close(found, states.belief.features, tolerance)
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
    first, last = elbo.covered(episodes.session, hyper)
    if hyper.decode_terms:
        chosen = jax_elbo.decode_steps(decode_key, jnp.asarray(first.numpy()), jnp.asarray(last.numpy()), 3)
    else:
        chosen = np.broadcast_to(np.arange(HORIZON), (HORIZON, BATCH, HORIZON))
    draws = elbo.Draws(tensor(noise), tensor(chosen).long())
    found, found_terms = elbo.loss(model, episodes, start, draws, hyper)
    found.backward()
    assert found_terms.keys() == terms.keys()
    for name, value in terms.items():
        assert_close(found_terms[name].detach().numpy(), value, tolerance, name)
    assert_same_gradients(model, gradient, tolerance)
    assert_close(found.detach().numpy(), loss, tolerance)


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
    )
    batch = of_type(jax_ppo.Samples(**drawn), kind)
    policy, _ = theirs.apply(params, batch.features)
    before = jax_ppo.policy_distribution(policy, action_space).log_prob(batch.action)
    batch = batch.replace(log_prob=before + jnp.asarray(rng.normal(0.0, 0.3, n), kind))
    hyper = PPOConfig(clip=0.2, entropy=0.07, value_weight=0.6)

    def loss(params):
        policy, value = theirs.apply(params, batch.features)
        return jax_ppo.loss(policy, value, batch, action_space, hyper)

    (expected, terms), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    assert 0.1 < float(terms["clip_fraction"]) < 0.95
    module = module_with(ActorCritic(network, features, 3, not discrete), params)
    columns = (batch.features, batch.action, batch.log_prob, batch.value, batch.advantage, batch.target)
    samples = ppo.Samples(*map(tensor, columns))
    policy, value = module(samples.features)
    found, found_terms = ppo.loss(policy, value, samples, not discrete, hyper)
    found.backward()
    assert_close(found.detach().numpy(), expected, tolerance)
    for name, value in found_terms.items():
        assert_close(value.detach().numpy(), terms[name], tolerance, name)
    assert_same_gradients(module, gradient, tolerance)


def test_advantages_agree(precision):
    kind, tolerance = precision
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=(8, 4)).astype(kind), rng.normal(size=(9, 4)).astype(kind)
    terminated = rng.random((8, 4)) < 0.2
    found = ppo.advantages(tensor(reward), tensor(terminated), tensor(value), 0.97, 0.8)
    expected = jax_ppo.advantages(jnp.asarray(reward), jnp.asarray(terminated), jnp.asarray(value), 0.97, 0.8)
    assert_close(found, expected, tolerance)


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
        Trainer._descend(trainer, descent, trainer.policy, loss, bound)
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


def test_the_gridworld_moves_and_pays_alike():
    ours, theirs, n = registry.make("gridworld"), environments.make("gridworld", 64, 0), 64
    theirs.reset(seed=3)
    states = jax.vmap(ours.reset)(jax.random.split(jax.random.key(0), n))
    rng, paid = np.random.default_rng(0), 0.0
    for _ in range(40):
        physics = states.physics.replace(agent=jnp.asarray(theirs.agent), goals=jnp.asarray(theirs.goals))
        states = states.replace(physics=physics, context=jnp.asarray(theirs.context))
        action = rng.integers(0, 5, n)
        states = jax.vmap(ours.step)(states, jnp.asarray(action))
        observation, reward, _, _, _ = theirs.step(action)
        np.testing.assert_array_equal(observation, states.obs)
        np.testing.assert_array_equal(reward, states.reward)
        paid += (reward == 1.0).sum()
    assert paid > 10


def test_the_half_cheetah_moves_and_pays_alike():
    """As far as one step of MJX in float32 and one of C MuJoCo in float64 agree; `test_physics` says how far."""
    ours, theirs, n = registry.make("halfcheetah_vel"), environments.make("halfcheetah_vel", 8, 0), 8
    theirs.reset(seed=3)
    step = jax.jit(jax.vmap(ours.step))
    states = jax.vmap(ours.reset)(jax.random.split(jax.random.key(0), n))
    rng = np.random.default_rng(0)
    for _ in range(30):
        stacked = [
            np.stack([getattr(data, name) for data in theirs.data]) for name in ("qpos", "qvel", "qacc_warmstart")
        ]
        qpos, qvel, warmstart = (jnp.asarray(x, jnp.float32) for x in stacked)
        context = Task(jnp.asarray(theirs.context, jnp.float32), jnp.ones(n), jnp.zeros(n))
        physics = states.physics.replace(qpos=qpos, qvel=qvel, warmstart=warmstart)
        states = states.replace(physics=physics, context=context)
        action = rng.normal(size=(n, 6)).astype(np.float32)
        states = step(states, jnp.asarray(action))
        observation, reward, _, truncated, _ = theirs.step(action)
        np.testing.assert_allclose(observation[:, :8], states.obs[:, :8], atol=5e-5)
        np.testing.assert_allclose(observation[:, 8:], states.obs[:, 8:], atol=2e-3)
        np.testing.assert_allclose(reward, states.reward, atol=2e-3)
        assert not truncated.any()
    assert np.abs(observation).max() > 1.0


@pytest.mark.parametrize("name", environments.MAKERS)
def test_sessions_end_and_contexts_change_as_ours_do(name):
    env, ours = environments.make(name, {"gridworld": 4000, "halfcheetah_vel": 200}[name], 0), registry.make(name)
    _, info = env.reset(seed=0)
    np.testing.assert_array_equal(info["session"], 0)
    before, after, switches, steps = [], [], 0, 20
    action = np.zeros(env.action_space.shape, env.action_space.dtype)
    for _ in range(steps):
        context, session = env.context.copy(), env.session.copy()
        _, _, _, _, info = env.step(action)
        np.testing.assert_array_equal(info["session"], session)
        moved = env.session != session
        np.testing.assert_array_equal(env.session - session, moved)
        np.testing.assert_array_equal(env.context[~moved], context[~moved])
        switches += moved.sum()
        before, after = [*before, *context[moved]], [*after, *env.context[moved]]
    rate, n = float(ours.p), steps * env.num_envs
    assert abs(switches / n - rate) < 4 * np.sqrt(rate * (1 - rate) / n)
    before, after = np.array(before), np.array(after)
    if name == "gridworld":
        swapped, error = np.mean(before != after), 4 * np.sqrt(0.16 / len(before))
        assert abs(swapped - 0.8) < error
    else:
        inside = (after > 0) & (after < 3)
        assert abs(np.mean((after - (3 - before))[inside])) < 0.15
        assert after.min() >= 0
        assert after.max() <= 3


@pytest.mark.parametrize("name", environments.MAKERS)
def test_workers_step_what_one_process_steps(name):
    """A worker's part is an environment of its own, with a seed of its own."""
    together = environments.make(name, 4, 2)
    try:
        seeds = np.random.SeedSequence(7).generate_state(2)
        parts = [environments.make(name, 2, 0) for _ in seeds]
        seen, _ = together.reset(seed=7)
        alone = [part.reset(seed=int(seed))[0] for part, seed in zip(parts, seeds, strict=True)]
        np.testing.assert_array_equal(seen, np.concatenate(alone))
        rng = np.random.default_rng(0)
        for t in range(together.horizon):
            action = np.stack([together.single_action_space.sample() for _ in range(4)]) if t % 2 else None
            if action is None:
                action = np.asarray(rng.integers(0, 2, together.action_space.shape), together.action_space.dtype)
            observation, reward, _, truncated, info = together.step(action)
            apart = [part.step(half) for part, half in zip(parts, np.split(action, 2), strict=True)]
            np.testing.assert_array_equal(observation, np.concatenate([step[0] for step in apart]))
            np.testing.assert_array_equal(reward, np.concatenate([step[1] for step in apart]))
            np.testing.assert_array_equal(info["session"], np.concatenate([step[4]["session"] for step in apart]))
            assert truncated.all() == (t == together.horizon - 1)
    finally:
        together.close()


def agents(**changes):
    """An agent in JAX with running statistics of its own, and a PyTorch trainer with its weights and statistics."""
    config = tiny_config("gridworld", **changes)
    program, states = build_program(config)
    state = jax.tree.map(lambda x: x[0], states)
    size = 6 + 2 * config.network.latent
    state = state.replace(normaliser=statistics(size, 6))
    env = environments.make("gridworld", config.num_envs, 0)
    env.reset(seed=0)
    trainer: Any = Trainer(config, env, meta_updates=40)
    module_with(trainer.model, state.belief_params)
    module_with(trainer.policy, state.policy_params)
    for name, moments in trainer.statistics.items():
        moments.mean, moments.deviation = (
            tensor(getattr(x, name)) for x in (state.normaliser.mean, state.normaliser.std)
        )
    return config, program, state, trainer


@pytest.mark.parametrize("normalised", [True, False])
def test_an_episode_shows_the_policy_what_ours_would(normalised):
    """Features, values and samples of an episode played in PyTorch, from the same observations, actions, rewards."""
    config, program, state, trainer = agents(ppo={"normalise_returns": normalised})
    played = trainer.play()
    agent, space = program.agent, program.env.action_space
    names = ("observation", "action", "reward", "session", "features", "log_prob", "value")
    seen = {name: jnp.asarray(getattr(played, name).numpy()) for name in names}
    seen["action"] = seen["action"].astype(jnp.int32)
    episodes = Trajectories(*(seen[name] for name in ("observation", "action", "reward", "session")))
    beliefs = agent.belief.encode(state.belief_params, agent.evidence(state.normaliser, episodes))
    features = jnp.concatenate([seen["observation"][:-1], beliefs.belief.features], axis=-1)
    np.testing.assert_allclose(seen["features"][:-1], features, atol=2e-5)
    policy, value = agent.policy(state.policy_params, agent.normalise(state.normaliser, "features", features))
    log_prob = jax_ppo.policy_distribution(policy, space).log_prob(seen["action"])
    np.testing.assert_allclose(seen["log_prob"], log_prob, atol=2e-5)
    np.testing.assert_allclose(seen["value"][:-1], value, atol=2e-5)
    zeros = jnp.zeros_like(seen["reward"], bool)
    rollout = Rollout(**seen, terminated=zeros, boundary=zeros)
    expected, returns = policy_samples(agent, rollout, config.ppo, state)
    found, found_returns = trainer.samples(played)
    for name in ("features", "action", "log_prob", "value", "advantage", "target"):
        flat = getattr(expected, name).reshape(-1, *getattr(expected, name).shape[2:])
        np.testing.assert_allclose(getattr(found, name), flat, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(found_returns, returns, atol=1e-4)


def test_a_meta_update_moves_both_networks_and_takes_in_what_was_seen():
    _, _, _, trainer = agents()
    before = trainer.arrays()
    before = {name: x.copy() for name, x in before.items()}
    paid = trainer.meta_update()
    assert -6.0 <= paid <= 60.0
    assert trainer.done == 1
    assert trainer.statistics["reward"].count == 8 * 60
    for name, x in trainer.arrays().items():
        assert not np.array_equal(x, before[name]) or name.endswith("previous_gates.weight"), name


@pytest.mark.parametrize("done", [0, 7, 15, 19, 20, 30, 39])
def test_rates_are_annealed_as_ours_are(done):
    config, _, _, trainer = agents(
        vae={"anneal": 0.8, "until": 0.5, "lr": 0.3}, ppo={"anneal": 0.4, "delay": 0.2, "lr": 0.2}
    )
    trainer.done = done
    trainer.meta_update()
    gone = done / 40
    belief, policy = (optimiser.param_groups[0]["lr"] for optimiser in (trainer.vae_optimiser, trainer.ppo_optimiser))
    assert belief == pytest.approx(0.3 * float(remaining(gone / 0.5, 0.8)), abs=1e-6)
    assert policy == pytest.approx(0.0 if gone < 0.2 else 0.2 * float(remaining(gone, 0.4)), abs=1e-6)


def test_the_buffer_gives_as_many_episodes_as_ours_takes_and_forgets_the_oldest():
    _, _, _, trainer = agents(vae={"buffer_episodes": 20, "trajectories": 12, "minibatches": 3})
    marked = elbo.Episodes(torch.zeros(61, 8, 6), torch.zeros(60, 8, 5), torch.zeros(60, 8), torch.zeros(60, 8))
    for number in range(4):
        trainer.buffer.add(marked._replace(session=torch.full((60, 8), number)))
    batches = list(trainer._belief_batches(marked))
    assert [batch.reward.shape[1] for batch in batches] == [4, 4, 4]
    held = trainer.buffer.arrays.session[0]
    np.testing.assert_array_equal(np.sort(held), [1] * 4 + [2] * 8 + [3] * 8)
    drawn = torch.cat([trainer.buffer.sample(100).session[0] for _ in range(3)])
    assert set(drawn.tolist()) == {1, 2, 3}


def run_reference(*flags):
    command = [sys.executable, "-m", "experiments.torch_reference", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_program_says_how_far_it_is_and_saves_what_ours_can_load(tmp_path):
    config = tiny_config("gridworld", steps=8 * 60 * 3)  # rounded up to two chunks of two updates
    configs.save(config, tmp_path / "config.json")
    ran = run_reference("--config", tmp_path / "config.json", "--snapshots", tmp_path, "--every", 2)
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["steps"] for line in lines] == [480, 960, 1440, 1920]
    assert ["snapshot" in line for line in lines] == [False, True, False, True]
    program, states = build_program(config)
    like = jax.tree.map(lambda x: x[0], jax.device_get(states.acting))
    with np.load(lines[-1]["snapshot"]) as found:
        acting = jax_program.acting(dict(found), like)
    assert jax.tree.map(np.shape, acting) == jax.tree.map(np.shape, like)


@pytest.mark.parametrize(
    "change, flags, named",
    [
        ({"method": "oracle"}, [], "method is 'oracle'"),
        ({"env": "reacher"}, [], "env is 'reacher'"),
        ({"env_options": ("p",)}, [], "env_options is 'p'"),
        ({"env_options": ("wings=2",)}, [], "env_options sets wings"),
        ({}, ["--workers", "3"], "workers is 3"),
        ({}, ["--threads", "0"], "threads is 0"),
        ({}, ["--wings"], "--wings"),
    ],
)
def test_bad_input_of_the_program_is_one_line_and_exit_code_2(change, flags, named, tmp_path):
    configs.save(dataclasses.replace(tiny_config("gridworld"), **change), tmp_path / "config.json")
    ran = run_reference("--config", tmp_path / "config.json", *flags)
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1
    assert named in ran.stderr
