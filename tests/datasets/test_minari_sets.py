"""Episodes as sets of Minari's, and back: exactly, and refused where they are not what training needs."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import h5py
import jax
import minari
import numpy as np
import pytest
from minari import DataCollector
from minari.dataset.minari_storage import MinariStorage

import dynamite_envs.gym
from conftest import assert_same
from dynamite_envs import registry
from dynamite_envs.errors import UserError
from dynamite_jax.commands import from_minari, to_minari
from dynamite_jax.datasets import dataset, minari_sets
from dynamite_jax.datasets.dataset import Dataset
from dynamite_jax.datasets.minari_sets import MinariSet
from recorded import collected
from refusals import contents


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """Where Minari keeps its sets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def silent(done: int, total: int) -> None:
    """Of how far it is nothing is said."""


def read_back(name: str, out, env: str, shard: int = 4, **options: Any) -> Dataset:
    plan = {"env": env, "env_options": options, "shard": shard}
    return MinariSet(name).collect(registry.make(env, **options), plan, out, silent)


@pytest.mark.parametrize("env", ["gridworld", "scratch_itch", "ant_goal"])
def test_a_set_comes_back_file_for_file(env, tmp_path):
    mine = collected(tmp_path / "mine", env, episodes=10, shard=5, options={"horizon": 6})
    folder = minari_sets.write(mine, "ours/random-v0", silent)
    assert folder == tmp_path / "minari" / "ours" / "random-v0"
    back = read_back("ours/random-v0", tmp_path / "back", env, shard=5, horizon=6)
    for number in range(2):
        for ours, theirs in zip(dataset.files(back.folder, number), dataset.files(mine.folder, number), strict=True):
            assert ours.read_bytes() == theirs.read_bytes()
    assert back.card["statistics"] == mine.card["statistics"] and back.card["physics"] == mine.card["physics"]
    assert back.card["policies"][0]["policy"] == "minari:ours/random-v0"
    assert back.card["policies"][0]["card"] == mine.card  # who played them first is not lost


def test_an_episode_ends_with_its_task(tmp_path):
    mine = collected(tmp_path / "mine", "probe_termination")
    minari_sets.write(mine, "ends-v0", silent)
    before = dataset.joined([mine.read(number) for number in range(6)])
    lengths = np.asarray(before.valid).sum(0)
    assert 0 < np.mean(lengths < before.valid.shape[0]) < 1
    theirs = minari.load_dataset("ends-v0")
    assert [len(episode) for episode in theirs] == lengths.tolist()
    for episode, ended in zip(theirs, before.terminated.any(0), strict=True):
        assert episode.terminations[-1] == ended and not episode.terminations[:-1].any()
        assert episode.truncations.tolist() == [t == before.valid.shape[0] - 1 for t in range(len(episode))]
    after = dataset.joined(
        [
            shard.read(number)
            for shard in [read_back("ends-v0", tmp_path / "back", "probe_termination")]
            for number in range(6)
        ]
    )
    np.testing.assert_array_equal(after.valid, before.valid)
    np.testing.assert_array_equal(after.terminated, before.terminated)
    np.testing.assert_array_equal(after.reward, before.reward)
    np.testing.assert_array_equal(after.observation, before.observation)
    np.testing.assert_array_equal(np.where(before.valid, after.action, 0), np.where(before.valid, before.action, 0))


def recorded_by_theirs(env: str, name: str, episodes: int = 5, labels: bool = True, **options: Any) -> None:
    """Episodes as others record them, through the environment's Gymnasium form."""
    collector = DataCollector(gymnasium.make(dynamite_envs.gym.name(env), labels=labels, **options), record_infos=True)
    collector.action_space.seed(3)
    for seed in range(episodes):
        collector.reset(seed=seed)
        over = False
        while not over:
            *_, terminated, truncated, _ = collector.step(collector.action_space.sample())
            over = terminated or truncated
    collector.create_dataset(
        dataset_id=name,
        eval_env=collector.unwrapped.spec,
        author="them",
        author_email="a@b.c",
        code_permalink="c",
        algorithm_name="random",
        description="d",
        requirements=[],
    )


@pytest.mark.parametrize("name", ["gridworld", "halfcheetah_dir", "probe_termination"])
def test_what_others_recorded_is_read(name, tmp_path):
    options: dict[str, Any] = {} if name == "probe_termination" else {"horizon": 8}
    recorded_by_theirs(name, "theirs/some-v1", **options)
    source = MinariSet("theirs/some-v1")
    assert source.env == (name, options)
    back = read_back("theirs/some-v1", tmp_path / "back", name, **options)
    assert [shard["episodes"] for shard in back.shards] == [4, 1] and not back.card["physics"]
    env, episodes = registry.make(name, **options), back.read(0)
    single: Any = gymnasium.make(dynamite_envs.gym.name(name), labels=True, **options)
    for number in range(4):  # played again, with the same seed and actions
        observation, info = single.reset(seed=number)
        for t in range(int(episodes.valid[:, number].sum())):
            np.testing.assert_array_equal(observation, episodes.observation[t, number])
            context = jax.tree.map(lambda x, t=t, n=number: x[t, n], episodes.context)
            np.testing.assert_allclose(info["context"], env.context_features(context), rtol=1e-6)
            assert info["session"] == episodes.session[t, number]
            observation, reward, terminated, _, info = single.step(episodes.action[t, number])
            assert (reward, terminated) == (episodes.reward[t, number], episodes.terminated[t, number])
        np.testing.assert_array_equal(observation, episodes.observation[t + 1, number])


def test_actions_are_those_that_were_executed(tmp_path):
    mine = collected(tmp_path / "mine", "point_robot", episodes=4, options={"horizon": 3})
    minari_sets.write(mine, "wide-v0", silent)
    with h5py.File(tmp_path / "minari" / "wide-v0" / "data" / "main_data.hdf5", "a") as file:
        changed("episode_2/actions", lambda x: np.where(np.arange(3)[:, None] == 1, [-3.0, 0.25], x))(file)
    back = read_back("wide-v0", tmp_path / "back", "point_robot", horizon=3).read(0)
    assert back.action[1, 2].tolist() == [-1.0, 0.25]


def test_without_labels_the_missing_field_is_named(tmp_path):
    recorded_by_theirs("gridworld", "theirs/bare-v0", labels=False, horizon=5)
    with pytest.raises(UserError, match=r"episode 0 of theirs/bare-v0 has no infos\.session, which training needs"):
        read_back("theirs/bare-v0", tmp_path / "back", "gridworld", horizon=5)


def changed(path: str, change):
    def edit(file: h5py.File) -> None:
        new = change(np.asarray(file[path]))
        del file[path]
        file[path] = new

    return edit


def without(path: str):
    return lambda file: file.__delitem__(path)


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (without("episode_1/infos/latent"), "episode 1 of some-v0 has no infos.latent, which training needs"),
        (without("episode_1/infos/physics"), "episode 1 of some-v0 lacks physical states, unlike the first one"),
        (without("episode_0/infos/physics"), "episode 1 of some-v0 holds physical states, unlike the first one"),
        (without("episode_1/rewards"), r"some-v0', which Minari can't read \("),
        (
            changed("episode_1/observations", lambda x: x[:, :2]),
            r"observations of episode 1 of some-v0 is float32\[7, 2\]; it must be float32\[7, 6\]",
        ),
        (
            changed("episode_1/infos/session", lambda x: x + 0.5),
            r"infos.session of episode 1 of some-v0 is float64\[7\]; it must be int32\[7\]",
        ),
        (changed("episode_1/actions", lambda x: x + 7), "actions of episode 1 of some-v0 are .*; they must be 0 to 4"),
        (
            changed("episode_1/rewards", lambda x: x * np.nan),
            "rewards of episode 1 of some-v0 holds a number that is not finite",
        ),
        (
            changed("episode_1/rewards", lambda x: np.where(np.arange(6) == 2, 1e300, x.astype(float))),
            "rewards of episode 1 of some-v0 holds a number that is not finite",
        ),
        (
            changed("episode_1/actions", lambda x: x.astype(np.int64) + 2**32),
            "actions of episode 1 of some-v0 holds a number that is too large",
        ),
        (
            changed("episode_1/terminations", lambda x: np.arange(6) == 2),
            "episode 1 of some-v0 goes on behind the end of its task, step 2",
        ),
        (
            changed("episode_1/terminations", lambda x: x[:0]),
            r"terminations of episode 1 of some-v0 is bool\[0\]; it must be bool\[6\]",
        ),
        (
            lambda file: [changed(f"episode_1/{x}", lambda y: y[:4])(file) for x in ("rewards", "terminations")],
            "episode 1 of some-v0 has 4 steps; it must have the environment's 6, or end with its task",
        ),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(edit, line, tmp_path):
    mine = collected(tmp_path / "mine", "gridworld", episodes=4, options={"horizon": 6})
    minari_sets.write(mine, "some-v0", silent)
    with h5py.File(tmp_path / "minari" / "some-v0" / "data" / "main_data.hdf5", "a") as file:
        edit(file)
    with pytest.raises(UserError, match=line):
        read_back("some-v0", tmp_path / "back", "gridworld", horizon=6)


def edit_metadata(data: Path, **changes: Any) -> None:
    path = data / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_nothing_that_a_set_names_is_run(tmp_path):
    """Minari makes the environment that the files name where they lack a space."""
    mine = collected(tmp_path / "mine", episodes=4)
    data = minari_sets.write(mine, "some-v0", silent) / "data"
    spec = {"id": "their/Thing-v0", "entry_point": "os:mkdir", "kwargs": {"path": str(tmp_path / "made")}}
    edit_metadata(data, env_spec=json.dumps(spec | {"additional_wrappers": [], "vector_entry_point": None}))
    edit_metadata(data, observation_space=None)
    with pytest.raises(UserError, match="observation_space is None"):
        read_back("some-v0", tmp_path / "back", "probe_match")
    assert not (tmp_path / "made").exists()


def test_nothing_outside_of_a_set_is_read(tmp_path):
    mine = collected(tmp_path / "mine", episodes=4)
    main = minari_sets.write(mine, "some-v0", silent) / "data" / "main_data.hdf5"
    main.rename(tmp_path / "outside.hdf5")
    main.symlink_to(tmp_path / "outside.hdf5")
    with pytest.raises(UserError, match=r"main_data\.hdf5 is a symbolic link; it must be a file"):
        read_back("some-v0", tmp_path / "back", "probe_match")


def link_out(file: h5py.File, outside: Path) -> None:
    file["episode_1/rewards"] = h5py.ExternalLink(outside, "episode_1/rewards")


def link_within(file: h5py.File, outside: Path) -> None:
    file["episode_1/rewards"] = h5py.SoftLink("/episode_0/rewards")


def raw_outside(file: h5py.File, outside: Path) -> None:
    file.create_dataset("episode_1/rewards", (20,), "f4", external=[(outside, 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File, outside: Path) -> None:
    layout = h5py.VirtualLayout((20,), "f4")
    layout[:] = h5py.VirtualSource(outside, "episode_1/rewards", (20,))
    file.create_virtual_dataset("episode_1/rewards", layout)


@pytest.mark.parametrize("lead_out", [link_out, link_within, raw_outside, virtual])
def test_nothing_outside_of_a_file_is_read(lead_out, tmp_path):
    mine = collected(tmp_path / "mine", episodes=4)
    main = minari_sets.write(mine, "some-v0", silent) / "data" / "main_data.hdf5"
    outside = tmp_path / "outside.hdf5"
    shutil.copy(main, outside)
    with h5py.File(main, "a") as file:
        del file["episode_1/rewards"]
        lead_out(file, outside)
    with pytest.raises(UserError, match=r"main_data\.hdf5 takes episode_1/rewards from elsewhere"):
        read_back("some-v0", tmp_path / "back", "probe_match")
    assert not (tmp_path / "back").exists()


def test_shards_of_a_large_set_must_be_even(tmp_path, monkeypatch):
    mine = collected(tmp_path / "mine", episodes=12)
    minari_sets.write(mine, "some-v0", silent)
    assert [s["episodes"] for s in read_back("some-v0", tmp_path / "small", "probe_match", shard=5).shards] == [5, 5, 2]
    monkeypatch.setattr(minari_sets, "MOST_BYTES", 2**10)
    with pytest.raises(UserError, match="shard is 5; in a set of more than 0 GiB it must divide the 12 episodes"):
        read_back("some-v0", tmp_path / "large", "probe_match", shard=5)
    read_back("some-v0", tmp_path / "large", "probe_match", shard=6)


def test_a_set_is_not_begun_where_the_disk_has_no_room(tmp_path, monkeypatch, root):
    mine = collected(tmp_path / "mine", episodes=4)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    with pytest.raises(UserError, match="can't be written: 0 MB are free, and it may take 0"):
        minari_sets.write(mine, "some-v0", silent)
    assert not (root / "some-v0").exists()


@pytest.mark.parametrize("harm", ["cut", "empty", "no metadata", "foreign metadata", "another format"])
def test_a_damaged_set_is_named(harm, tmp_path):
    mine = collected(tmp_path / "mine", episodes=4)
    data = minari_sets.write(mine, "some-v0", silent) / "data"
    main = data / "main_data.hdf5"
    if harm == "cut":
        main.write_bytes(main.read_bytes()[: main.stat().st_size // 2])
    elif harm == "empty":
        main.write_bytes(b"")
    elif harm == "no metadata":
        (data / "metadata.json").unlink()
    elif harm == "another format":
        edit_metadata(data, data_format="clay")
    else:
        (data / "metadata.json").write_text('{"total_episodes": 4}')
    with pytest.raises(UserError, match="name is 'some-v0', which Minari can't read"):
        read_back("some-v0", tmp_path / "back", "probe_match")


def test_reading_goes_on_where_it_was_cut_off(tmp_path):
    mine = collected(tmp_path / "mine")
    minari_sets.write(mine, "some-v0", silent)
    whole = read_back("some-v0", tmp_path / "whole", "probe_match")
    cut = tmp_path / "cut"

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    plan = {"env": "probe_match", "env_options": {}, "shard": 4}
    with pytest.raises(KeyboardInterrupt):
        MinariSet("some-v0").collect(registry.make("probe_match"), plan, cut, stop)
    assert not (cut / dataset.CARD).exists()
    read_back("some-v0", cut, "probe_match")
    assert contents(cut) == contents(whole.folder)
    minari_sets.write(mine, "other-v0", silent)
    with pytest.raises(UserError, match="whose collection has episodes of other policies"):
        read_back("other-v0", cut, "probe_match")


def test_writing_that_fails_leaves_nothing(tmp_path, root):
    mine = collected(tmp_path / "mine")
    path = dataset.files(mine.folder, 3)[1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="it does not match its SHA-256"):
        minari_sets.write(mine, "ours/some-v0", silent)
    assert [path for path in root.rglob("*") if path.is_file() or "some" in path.name] == []


def test_the_commands(tmp_path, monkeypatch, capsys):
    mine = collected(tmp_path / "mine", "gridworld", options={"horizon": 5})
    for command, arguments in (
        (to_minari, ["--data", mine.folder, "--name", "ours/some-v0"]),
        (from_minari, ["--name", "ours/some-v0", "--out", tmp_path / "back"]),
    ):
        monkeypatch.setattr(sys, "argv", [command.__name__, *map(str, arguments)])
        command.main()
    out = capsys.readouterr().out
    assert str(tmp_path / "minari" / "ours" / "some-v0") in out and "return mean" in out
    back = Dataset.open(tmp_path / "back", registry.make("gridworld", horizon=5))
    assert (back.card["env"], back.card["env_options"]) == ("gridworld", {"horizon": 5})
    assert_same(back.read(0).reward[:, :4], mine.read(0).reward)
    recovered: Any = minari.load_dataset("ours/some-v0").recover_environment()
    assert recovered.unwrapped.env.horizon == 5


def test_commands_refuse_in_one_line(tmp_path, refused):
    mine = collected(tmp_path / "mine")
    minari_sets.write(mine, "taken-v0", silent)
    empty = tmp_path / "minari" / "empty-v0" / "data"
    empty.mkdir(parents=True)
    space = gymnasium.spaces.Discrete(2)
    MinariStorage.new(empty, space, space).update_metadata(
        {"dataset_id": "empty-v0", "minari_version": minari.__version__}
    )
    for name in ("nonsense", "../out-v0", "/tmp/x-v0", "", "a.b/c-v0", "a.b-v0"):
        line = refused(to_minari, "--data", mine.folder, "--name", name)
        assert line == f"name is {name!r}; it must be one of Minari's, as gridworld/mixed-v0"
    assert "name is 'taken-v0', which is taken" in refused(to_minari, "--data", mine.folder, "--name", "taken-v0")
    line = refused(to_minari, "--data", mine.folder, "--name", "taken-v0/inner-v0")
    assert line.startswith("name is 'taken-v0/inner-v0', which is taken")
    assert set(minari.list_local_datasets()) == {"empty-v0", "taken-v0"}
    assert "must be a folder with a card.json" in refused(to_minari, "--data", tmp_path / "none", "--name", "a-v0")
    out = ["--out", tmp_path / "new"]
    assert "which Minari does not have here" in refused(from_minari, "--name", "none-v0", *out)
    assert "it must be one of Minari's" in refused(from_minari, "--name", "../../x-v0", *out)
    recorded_by_theirs("gridworld", "theirs/fed-v0", horizon=4, feedback=True)
    line = refused(from_minari, "--name", "theirs/fed-v0", *out)
    assert line == "name is 'theirs/fed-v0', which was recorded with feedback=True; observations are read without"
    assert "env is missing: empty-v0 does not say" in refused(from_minari, "--name", "empty-v0", *out)
    line = refused(from_minari, "--name", "empty-v0", *out, "--env", "gridworld")
    assert line == "name is 'empty-v0', which has no episode"
    assert "without env it must be empty" in refused(from_minari, "--name", "taken-v0", *out, "--env-options", "p=0")
    assert "shard is 0; it must be 1 or more" in refused(from_minari, "--name", "taken-v0", *out, "--shard", 0)
    assert "unknown environment 'grid'" in refused(from_minari, "--name", "taken-v0", *out, "--env", "grid")
