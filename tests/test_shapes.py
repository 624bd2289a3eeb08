"""Arrays of a wrong shape or type, which broadcasting would let pass, are refused where tests call the modules."""

import jax.numpy as jnp
import jaxtyping
import pytest

from dynamite_jax.agents import running_statistics
from dynamite_jax.algorithms import ppo
from dynamite_jax.beliefs import elbo
from dynamite_jax.data import masked
from dynamite_jax.data.types import Gaussian

STEPS = jnp.zeros((5, 2))
TERMINATED = jnp.zeros((5, 2), bool)
WRONG = {
    "kl": lambda: elbo.kl(Gaussian.standard((5, 2, 3)), Gaussian.standard((5, 2, 1))),
    "prior_without_trajectories": lambda: elbo.session_prior(Gaussian.standard((5, 3)), TERMINATED.astype(int), None),
    "sessions_as_floats": lambda: elbo.session_bounds(STEPS),
    "no_value_of_the_last_state": lambda: ppo.advantages(STEPS, TERMINATED, STEPS, 0.9, 0.8),
    "mask_of_one_trajectory": lambda: masked.mean(STEPS, TERMINATED[:, :1]),
    "mask_of_numbers": lambda: masked.total(STEPS, STEPS),
    "batch_of_one_feature": lambda: running_statistics.merge(
        running_statistics.init(3, 2), ~TERMINATED, features=STEPS[..., None]
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_shape_is_refused(name):
    with pytest.raises(jaxtyping.TypeCheckError):
        WRONG[name]()
