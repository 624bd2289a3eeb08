"""The environments behind Gymnasium's interface, alone and as vectors."""

import subprocess
import sys
import warnings
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.serialization import to_state_dict
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import dynamite_envs.gym as dynamite_gym
from conftest import assert_same
from dynamite_envs import registry
from dynamite_envs.errors import UserError
from dynamite_envs.gym.env import GymnasiumEnv
from dynamite_envs.gym.vector import GymnasiumVectorEnv
from dynamite_envs.registry import MAKERS

SHOWN = [name for name in MAKERS if not name.startswith("probe_")]


def test_registration_imports_neither_jax_nor_mujoco():
    code = "import sys, gymnasium, dynamite_envs.gym; gymnasium.spec('dynamite/HalfCheetahVel-v0')"
    code += "; print([name for name in ('jax', 'mujoco') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_every_environment_has_a_name_there():
    names = {dynamite_gym.name(env): env for env in MAKERS}
    assert len(names) == len(MAKERS) and names["dynamite/HalfCheetahVel-v0"] == "halfcheetah_vel"
    assert names["dynamite/GridworldRing8-v0"] == "gridworld_ring8"
    for name, env in names.items():
        assert gymnasium.spec(name).kwargs == {"env": env}


def test_an_environment_of_ones_own_is_registered_too(monkeypatch):
    monkeypatch.setitem(MAKERS, "my_grid", registry.maker("gridworld"))
    dynamite_gym.register()
    env: Any = gymnasium.make("dynamite/MyGrid-v0", cells=4)
    assert env.unwrapped.env.cells == 4
    del gymnasium.registry["dynamite/MyGrid-v0"]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "humanoid_dir")) for n in (*SHOWN, "probe_termination")]
)
def test_gymnasiums_own_check_passes(name):
    render = "rgb_array" if name in SHOWN else None
    env = gymnasium.make(dynamite_gym.name(name), render_mode=render)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*Box observation space (minimum|maximum) value is -?infinity")
        warnings.filterwarnings("ignore", message="Accessing `.*` directly from `Data`")  # brax does
        check_env(env.unwrapped, skip_render_check=render is None)
    env.close()


@pytest.mark.parametrize("name", ["gridworld", "point_robot", "probe_termination"])
def test_episodes_are_those_of_the_environment(name):
    """The same states from the same key, up to the end of the horizon or of the task; labels only where asked for."""
    options: dict[str, Any] = {} if name == "probe_termination" else {"horizon": 7}
    env, ours = GymnasiumEnv(name, labels=True, **options), registry.make(name, **options)
    silent = GymnasiumEnv(name, **options)
    for seed in (0, 2**40):
        observation, info = env.reset(seed=seed)
        words = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed))).integers(
            2**32, size=2, dtype=np.uint32
        )
        state = ours.reset(jax.random.wrap_key_data(jnp.asarray(words)))
        assert silent.reset(seed=seed)[1] == {}
        step, over = jax.jit(ours.step), False
        env.action_space.seed(seed % 1000)
        while not over:
            np.testing.assert_array_equal(observation, state.obs)
            assert observation in env.observation_space
            np.testing.assert_allclose(info["context"], ours.context_features(state.context), rtol=1e-6)
            assert (info["session"], info["switched"]) == (int(state.session), bool(state.switched))
            assert_same(info["latent"], to_state_dict(state.context))
            action = env.action_space.sample()
            observation, reward, terminated, truncated, info = env.step(action)
            state = step(state, action)
            assert reward == float(state.reward)
            assert (terminated, truncated) == (bool(state.terminated), bool(state.truncated))
            assert silent.step(action)[4] == {}
            over = terminated or truncated
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(action)


def test_a_seed_fixes_all_episodes_after_it():
    def first_observations(env, seed):
        return np.stack([env.reset(seed=seed)[0], *(env.reset()[0] for _ in range(3))])

    a, b = (GymnasiumEnv("gridworld") for _ in range(2))
    same = first_observations(a, 5)
    np.testing.assert_array_equal(same, first_observations(b, 5))
    assert len(np.unique(same, axis=0)) == 4
    assert not np.array_equal(same, first_observations(b, 6))


def test_feedback_is_the_end_of_the_observation():
    """Of one environment and of a vector, where the next episode begins without."""
    one = gymnasium.make("dynamite_envs.gym:dynamite/Gridworld-v0", feedback=True, horizon=3).unwrapped
    many = gymnasium.make_vec("dynamite/Gridworld-v0", num_envs=2, feedback=True, horizon=3, autoreset_mode="SameStep")
    assert one.observation_space.shape == many.single_observation_space.shape == (12,)
    check_env(one, skip_render_check=True)
    assert many.reset(seed=0)[1] == {}
    for observation in (one.reset(seed=0)[0], *many.reset(seed=0)[0]):
        np.testing.assert_array_equal(observation[6:], np.zeros(6))
    for action in (4, 2, 0):
        observation, reward, *_ = one.step(action)
        np.testing.assert_array_equal(observation[6:], [*np.eye(5)[action], reward])
        observations, rewards, _, _, info = many.step(np.array([action, action]))
        ends = info.get("final_obs", observations)
        np.testing.assert_array_equal(ends[0], observation)
        np.testing.assert_array_equal([end[-1] for end in ends], rewards)
    np.testing.assert_array_equal(observations[:, 6:], np.zeros((2, 6)))


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("name", ["probe_termination", "scratch_itch"])
def test_a_vector_is_its_environments_one_by_one(name, mode):
    """Against Gymnasium's own vector of single environments: observations, rewards, ends and infos."""
    options: dict[str, Any] = {} if name == "probe_termination" else {"horizon": 5}
    singles: Any = SyncVectorEnv([lambda: GymnasiumEnv(name, labels=True, **options)] * 3, autoreset_mode=mode)
    ours = gymnasium.make_vec(dynamite_gym.name(name), num_envs=3, labels=True, autoreset_mode=mode, **options)
    assert isinstance(ours, GymnasiumVectorEnv) and ours.metadata["autoreset_mode"] == mode
    assert ours.observation_space == singles.observation_space and ours.action_space == singles.action_space
    assert ours.single_action_space == singles.single_action_space

    def same(a, b):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            assert x.dtype == y.dtype
            for mine, theirs in zip(x, y, strict=True) if x.dtype == object else [(x, y)]:
                np.testing.assert_array_equal(mine, theirs)

    for seed in (3, [9, 4, 7], None):
        same(ours.reset(seed=seed), singles.reset(seed=seed))
        assert seed is None or ours.np_random_seed == singles.np_random_seed
        ends = 0
        ours.action_space.seed(1)
        for _ in range(16):
            actions = ours.action_space.sample()
            results = [vector.step(actions) for vector in (ours, singles)]
            same(*results)
            over = results[0][2] | results[0][3]
            ends += over.sum()
            if mode == AutoresetMode.DISABLED and over.any():
                with pytest.raises(gymnasium.error.ResetNeeded):
                    ours.step(actions)
                mine, theirs = (vector.reset(options={"reset_mask": over.copy()}) for vector in (ours, singles))
                same(mine, theirs)
        assert ends >= 6
    assert ours.np_random[0].bit_generator.state == singles.np_random[0].bit_generator.state
    ours.close()


def test_a_vector_renders_each_of_its_environments():
    vector: Any = gymnasium.make_vec("dynamite/Gridworld-v0", num_envs=2, render_mode="rgb_array")
    single = gymnasium.make("dynamite/Gridworld-v0", render_mode="rgb_array")
    vector.reset(seed=0)
    for number, image in enumerate(vector.render()):
        single.reset(seed=number)
        np.testing.assert_array_equal(image, single.render())
    vector.close()
    single.close()


@pytest.mark.parametrize(
    "arguments",
    [{"seed": [1, 2]}, {"options": {"reset_mask": [True, False, True]}}, {"options": {"reset_mask": np.ones(2, bool)}}],
)
def test_a_vector_refuses_seeds_and_masks_of_another_shape(arguments):
    vector = GymnasiumVectorEnv("probe_match", num_envs=3)
    vector.reset(seed=0)
    with pytest.raises(ValueError, match="it must be"):
        vector.reset(**arguments)


@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
def test_a_wrong_option_is_named(make):
    with pytest.raises(UserError, match="env_options: gridworld has no option 'cell'; did you mean 'cells'"):
        make("dynamite/Gridworld-v0", cell=3)


@pytest.mark.parametrize("make", [GymnasiumEnv, GymnasiumVectorEnv])
def test_nothing_is_stepped_or_drawn_before_an_episode_has_begun(make):
    env = make("gridworld", render_mode="rgb_array")
    for use in (lambda: env.step(0), env.render):
        with pytest.raises(gymnasium.error.ResetNeeded):
            use()
