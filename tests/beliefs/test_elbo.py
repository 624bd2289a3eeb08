"""The pieces of the objective against the formulas, written as loops over steps in NumPy."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import numpy_elbo as reference
from dynamite_jax.beliefs import elbo
from dynamite_jax.data.types import Gaussian

# One column a trajectory of 9 steps.
PATTERNS = {
    "ragged": [0, 0, 0, 1, 1, 2, 2, 2, 2],
    "first_and_last_of_one_step": [0, 1, 1, 1, 1, 1, 1, 1, 2],
    "inner_ones": [0, 0, 1, 2, 2, 2, 3, 4, 4],
    "one_session": [0] * 9,
    "every_step_its_own": list(range(9)),
}
SESSION = np.array(list(PATTERNS.values()), np.int32).T
HORIZON, BATCH = SESSION.shape
LATENT = 3


def beliefs(seed, shape=(HORIZON, BATCH, LATENT)) -> Gaussian:
    rng = np.random.default_rng(seed)
    return Gaussian(jnp.asarray(rng.normal(size=shape), jnp.float32), jnp.asarray(rng.normal(size=shape), jnp.float32))


def column(belief: Gaussian, b: int) -> list:
    """Beliefs of one trajectory as the reference takes them."""
    mean, log_variance = np.asarray(belief.mean, float), np.asarray(belief.log_variance, float)
    return [(mean[t, b], log_variance[t, b]) for t in range(len(mean))]


def every_step(function) -> np.ndarray:
    """[H, B] of a function of trajectory and step."""
    return np.array([[function(b, t) for b in range(BATCH)] for t in range(HORIZON)])


def bounds():
    return elbo.session_bounds(jnp.asarray(SESSION))


def dynamics(belief: Gaussian) -> Gaussian:
    return Gaussian(0.5 * belief.mean + 1.0, 0.25 * belief.log_variance - 0.3)


def slow_dynamics(belief):
    return 0.5 * belief[0] + 1.0, 0.25 * belief[1] - 0.3


def test_kl_is_the_sum_of_the_kls_of_the_numbers():
    q, p = beliefs(0), beliefs(1)
    expected = every_step(lambda b, t: reference.kl(column(q, b)[t], column(p, b)[t]))
    np.testing.assert_allclose(elbo.kl(q, p), expected, rtol=1e-5)


def test_kl_equals_that_of_distrax():
    q, p = beliefs(2), beliefs(3)

    def normal(g):
        return distrax.MultivariateNormalDiag(g.mean, jnp.exp(0.5 * g.log_variance))

    np.testing.assert_allclose(elbo.kl(q, p), normal(q).kl_divergence(normal(p)), rtol=1e-5)


def test_kl_of_a_belief_to_itself_is_zero():
    q = beliefs(4)
    np.testing.assert_allclose(elbo.kl(q, q), 0.0, atol=1e-6)


def test_kl_stays_finite_over_the_whole_range_of_log_variances():
    low, high = (Gaussian(jnp.zeros(1), jnp.full(1, x)) for x in reference.LOG_VARIANCE_RANGE)
    np.testing.assert_allclose(elbo.kl(low, high), (14 + np.exp(-14) - 1) / 2, rtol=1e-6)
    np.testing.assert_allclose(elbo.kl(high, low), (-14 + np.exp(14) - 1) / 2, rtol=1e-6)


def test_session_bounds_are_the_ends_of_the_run_around_each_step():
    first, last = bounds()
    np.testing.assert_array_equal(first, every_step(lambda b, t: reference.steps_of_session(SESSION[:, b], t)[0]))
    np.testing.assert_array_equal(last, every_step(lambda b, t: reference.steps_of_session(SESSION[:, b], t)[-1]))


def test_an_episode_of_one_step_is_one_session():
    first, last = elbo.session_bounds(jnp.zeros((1, 2), jnp.int32))
    np.testing.assert_array_equal(first, [[0, 0]])
    np.testing.assert_array_equal(last, [[0, 0]])


def test_gather_steps_picks_rows_of_each_trajectory_apart():
    x = jnp.arange(HORIZON * BATCH).reshape(HORIZON, BATCH)
    index = np.random.default_rng(0).integers(0, HORIZON, (4, BATCH))
    expected = [[x[index[row, b], b] for b in range(BATCH)] for row in range(4)]
    np.testing.assert_array_equal(elbo.gather_steps(x, jnp.asarray(index)), expected)


@pytest.mark.parametrize("terms", [1, 4, 16])
def test_decoded_steps_lie_in_the_session(terms):
    first, last = bounds()
    chosen = jax.vmap(lambda key: elbo.decode_steps(key, first, last, terms))(jax.random.split(jax.random.key(0), 200))
    assert chosen.shape == (200, HORIZON, BATCH, terms)
    assert jnp.all(chosen >= first[..., None]) and jnp.all(chosen <= last[..., None])


def test_decoded_steps_lie_in_the_session_at_the_largest_draw(monkeypatch):
    """In float32 the last part of 8 plus the largest number below 1 is the whole."""
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.full(shape, 1 - 2.0**-23, jnp.float32))
    first, last = bounds()
    chosen = elbo.decode_steps(jax.random.key(0), first, last, 8)
    np.testing.assert_array_equal(chosen.max(-1), last)


@pytest.mark.parametrize("terms", [1, 3, 8])
def test_length_times_the_mean_of_decoded_steps_estimates_the_sum_over_the_session_without_bias(terms):
    first, last = bounds()
    value = np.random.default_rng(1).normal(size=(HORIZON, BATCH)) + 2.0
    keys = jax.random.split(jax.random.key(1), 4000)
    chosen = np.asarray(jax.vmap(lambda key: elbo.decode_steps(key, first, last, terms))(keys))
    for b in range(BATCH):
        for t in range(HORIZON):
            session = reference.steps_of_session(SESSION[:, b], t)
            estimates = len(session) * value[chosen[:, t, b], b].mean(-1)
            error = estimates.std() / len(keys) ** 0.5
            assert abs(estimates.mean() - value[session, b].sum()) <= 4.5 * error + 1e-9, (b, t)


def test_each_equal_part_of_a_session_gives_one_decoded_step():
    first, last = bounds()
    terms = 4
    chosen = jax.vmap(lambda key: elbo.decode_steps(key, first, last, terms))(jax.random.split(jax.random.key(2), 100))
    for b in range(BATCH):
        for t in range(HORIZON):
            steps = reference.steps_of_session(SESSION[:, b], t)
            for k in range(terms):
                low, high = k * len(steps) / terms, (k + 1) * len(steps) / terms
                decoded = set(np.asarray(chosen[:, t, b, k]).tolist())
                # All of the steps that the part touches, none else.
                assert decoded == {j for i, j in enumerate(steps) if i + 1 > low and i < high}, (b, t, k)


@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_decoding_as_often_as_the_session_is_long_covers_it(length):
    """Every step as often as any other, so that the estimate is exact."""
    first, last = jnp.full((1, 50), 3), jnp.full((1, 50), 3 + length - 1)
    chosen = np.sort(elbo.decode_steps(jax.random.key(3), first, last, 8))
    np.testing.assert_array_equal(chosen[0], np.tile(np.repeat(3 + np.arange(length), 8 // length), (50, 1)))


def test_decoded_steps_are_drawn_apart_for_every_step_trajectory_and_part():
    """The mean over n draws has an n-th of the variance of one, along every axis."""
    first = jnp.zeros((30, 40), jnp.int32)
    offset = (
        np.asarray(elbo.decode_steps(jax.random.key(4), first, first + 29, 3)) % 10
    )  # uniform on 0 .. 9 in each part
    for axis, n in enumerate(offset.shape):
        assert 0.5 < offset.mean(axis).var() / (8.25 / n) < 2.0


@pytest.mark.parametrize("alignment", ["evidence", "action"])
def test_boundary_labels_compare_neighbouring_steps(alignment):
    labels = elbo.boundary_labels(jnp.asarray(SESSION), alignment)
    expected = every_step(lambda b, t: reference.boundary_label(SESSION[:, b], t, alignment))
    np.testing.assert_array_equal(labels, expected)


def test_boundary_labels_come_one_step_later_as_evidence_than_as_action():
    session = jnp.array([[0, 0, 1, 1, 1, 2]]).T
    np.testing.assert_array_equal(elbo.boundary_labels(session, "action")[:, 0], [0, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(elbo.boundary_labels(session, "evidence")[:, 0], [0, 0, 0, 1, 0, 0])


@pytest.mark.parametrize("alignment", ["evidence", "action"])
@pytest.mark.parametrize("horizon", [1, 2])
def test_boundary_labels_of_the_shortest_episodes(alignment, horizon):
    labels = elbo.boundary_labels(jnp.arange(horizon)[:, None], alignment)
    np.testing.assert_array_equal(labels[:, 0], [0.0, float(alignment == "action")][:horizon])


@pytest.mark.parametrize("with_dynamics", [True, False])
def test_the_prior_of_a_session_comes_from_the_last_belief_of_the_one_before(with_dynamics):
    q = beliefs(5)
    prior = elbo.session_prior(q, bounds()[0], dynamics if with_dynamics else None)
    slow = slow_dynamics if with_dynamics else None
    for b in range(BATCH):
        for t in range(HORIZON):
            mean, log_variance = reference.session_prior(column(q, b), SESSION[:, b], t, slow)
            np.testing.assert_allclose(prior.mean[t, b], mean, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(prior.log_variance[t, b], log_variance, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", ["latent_dynamics", "previous_belief"])
@pytest.mark.parametrize("with_dynamics", [True, False])
def test_kl_term_is_to_the_prior_or_along_the_chain(target, with_dynamics):
    q, first = beliefs(6), bounds()[0]
    prior = elbo.session_prior(q, first, dynamics if with_dynamics else None)
    slow = slow_dynamics if with_dynamics else None
    expected = every_step(lambda b, t: reference.kl_to_prior(column(q, b), SESSION[:, b], t, slow, target))
    np.testing.assert_allclose(elbo.kl_to_prior(q, prior, first, target), expected, rtol=2e-5, atol=1e-5)


def test_consistency_charges_steps_away_from_the_last_belief_of_the_session():
    q = beliefs(7)
    expected = every_step(lambda b, t: reference.consistency(column(q, b), SESSION[:, b], t, column(q, b)))
    penalty = elbo.consistency(q, bounds()[1])
    assert penalty.shape == (HORIZON - 1, BATCH)
    np.testing.assert_allclose(penalty, expected[:-1], rtol=2e-5, atol=1e-5)
    assert np.all(expected[:, list(PATTERNS).index("every_step_its_own")] == 0.0)
    assert 0.2 < np.mean(expected[:-1, list(PATTERNS).index("one_session")] > 0) < 0.9  # both sides of the hinge


def test_consistency_of_beliefs_that_close_in_on_the_last_one_is_zero():
    mean = jnp.linspace(3.0, 0.0, HORIZON)[:, None, None] * jnp.ones((1, BATCH, LATENT))
    closing_in = Gaussian(mean, jnp.zeros_like(mean))
    np.testing.assert_array_equal(elbo.consistency(closing_in, bounds()[1]), 0.0)


def test_consistency_has_the_gradient_of_a_fixed_end_of_session():
    """d KL(q || p) / d mean_q = (mean_q - mean_p) / var_p and d / d log var_q = (var_q / var_p - 1) / 2."""
    q = beliefs(8)
    last = bounds()[1]
    gradient = jax.grad(lambda belief: elbo.consistency(belief, last).sum())(q)
    mean, log_variance = np.zeros((2, HORIZON, BATCH, LATENT))
    for b in range(BATCH):
        rows = column(q, b)
        for t in range(HORIZON - 1):
            if reference.consistency(rows, SESSION[:, b], t, rows) == 0.0:
                continue
            end = rows[reference.steps_of_session(SESSION[:, b], t)[-1]]
            for step, sign in ((t + 1, 1.0), (t, -1.0)):
                mean[step, b] += sign * (rows[step][0] - end[0]) / np.exp(end[1])
                log_variance[step, b] += sign * (np.exp(rows[step][1] - end[1]) - 1) / 2
    np.testing.assert_allclose(gradient.mean, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient.log_variance, log_variance, rtol=1e-4, atol=1e-5)


def test_consistency_gives_no_gradient_to_the_end_of_a_session():
    q = beliefs(9)
    last = bounds()[1]
    gradient = jax.grad(lambda belief: elbo.consistency(belief, last).sum())(q)
    is_end = np.asarray(last) == np.arange(HORIZON)[:, None]
    np.testing.assert_allclose(np.asarray(gradient.mean)[is_end], 0.0, atol=1e-6)
    np.testing.assert_allclose(np.asarray(gradient.log_variance)[is_end], 0.0, atol=1e-6)
    assert np.abs(np.asarray(gradient.mean)[~is_end]).max() > 0.1


def test_boundary_loss_is_the_cross_entropy():
    rng = np.random.default_rng(10)
    logit, label = rng.normal(size=(HORIZON, BATCH)) * 3, rng.integers(0, 2, (HORIZON, BATCH)).astype(float)
    expected = every_step(lambda b, t: reference.cross_entropy(logit[t, b], label[t, b]))
    np.testing.assert_allclose(elbo.boundary_loss(jnp.asarray(logit), jnp.asarray(label)), expected, rtol=2e-5)


def test_boundary_loss_is_finite_where_the_head_is_sure():
    loss = elbo.boundary_loss(jnp.array([200.0, 200.0, -200.0, -200.0]), jnp.array([1.0, 0.0, 1.0, 0.0]))
    np.testing.assert_allclose(loss, [0.0, 200.0, 200.0, 0.0], atol=1e-6)
