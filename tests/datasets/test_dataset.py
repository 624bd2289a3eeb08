"""Sets of episodes as files: whole, exact, and refused where they are not what they say."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conftest import assert_same
from dynamite_envs import registry
from dynamite_envs.errors import UserError
from dynamite_jax import config as configs
from dynamite_jax.datasets import collection, dataset, sources
from dynamite_jax.datasets.dataset import Dataset
from dynamite_jax.datasets.windows import Windows
from recorded import collected, offline_config, played, program_of
from refusals import contents


@pytest.mark.parametrize("name", ["gridworld", "reacher"])
def test_episodes_come_back_exactly(name, tmp_path):
    env = registry.make(name, horizon=5)
    episodes = jax.device_get(played(env))
    dataset.write_shard(tmp_path, 7, episodes)
    assert_same(dataset.read_shard(tmp_path, 7, env), episodes)
    dataset.write_shard(tmp_path, 8, episodes.replace(physics=None))
    assert dataset.read_shard(tmp_path, 8, env).physics is None


def test_a_large_set_of_uneven_shards_is_refused(tmp_path):
    env = registry.make("probe_match")
    collected(tmp_path)
    dataset.write_shard(tmp_path, 0, jax.device_get(played(env, 3)))
    card = json.loads((tmp_path / dataset.CARD).read_text())
    digests = [dataset.digest_of_file(path) for path in dataset.files(tmp_path, 0)]
    card["shards"][0] |= {"episodes": 3, "sha256": digests}
    (tmp_path / dataset.CARD).write_text(json.dumps(card))
    program_of(offline_config(tmp_path))  # it fits into one window
    worlds = program_of(offline_config(tmp_path), most_bytes=1).worlds
    with pytest.raises(UserError, match="have 3 to 4 episodes; in a set of more than"):
        next(worlds)


def test_what_is_hidden_lies_apart(tmp_path):
    collected(tmp_path / "set")
    visible, hidden = (load_file(path) for path in dataset.files(tmp_path / "set", 0))
    assert set(visible) == {"observation", "action", "reward", "terminated"}
    assert set(hidden) == {"session", "context", "physics"}
    assert visible["reward"].shape[0] == hidden["session"].shape[0] == 4


def test_a_collection_that_was_cut_off_goes_on_to_the_same_files(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    collected(whole)
    shutil.copytree(whole, cut)
    (cut / dataset.CARD).unlink()
    for path in (*dataset.files(cut, 2), dataset.files(cut, 4)[0]):
        path.unlink()
    kept = dataset.files(cut, 1)[0].stat().st_mtime_ns
    with pytest.raises(UserError, match="the same command goes on"):
        Dataset.open(cut, registry.make("probe_match"))
    collected(cut)
    assert contents(cut) == contents(whole)
    assert dataset.files(cut, 1)[0].stat().st_mtime_ns == kept  # what was there is not played again


def test_a_complete_set_is_left_as_it_is(tmp_path):
    first = collected(tmp_path)
    before = contents(tmp_path)
    assert collected(tmp_path).digest == first.digest
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"episodes": 28}, "whose collection has episodes 24"),
        ({"env": "probe_memory"}, "whose collection has env probe_match"),
        ({"policies": ("random=2",)}, "whose collection has episodes of other policies"),
    ],
)
def test_a_folder_of_another_collection_is_refused(changes, line, tmp_path):
    collected(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=line):
        collected(tmp_path, **changes)
    assert contents(tmp_path) == before


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"holds thesis\.tex; name a new folder"):
        collected(tmp_path)
    assert set(contents(tmp_path)) <= {"thesis.tex", "run.lock"}


def test_the_card_measures_the_episodes(tmp_path):
    card = collected(tmp_path, "gridworld").card
    env = registry.make("gridworld")
    parts = [dataset.read_shard(tmp_path, number, env) for number in range(6)]
    episodes = dataset.joined(parts)
    returns, told = episodes.reward.sum(0), card["statistics"]
    assert told["episodes"] == 24 and told["steps"] == 24 * 60
    assert told["return_mean"] == pytest.approx(returns.mean(), rel=1e-5)
    assert told["return_deviation"] == pytest.approx(returns.std(), rel=1e-5)
    assert told["return_quantiles"] == pytest.approx(np.quantile(returns, [0, 0.25, 0.5, 0.75, 1]), rel=1e-5)
    assert told["boundaries"] == (episodes.session[1:-1] != episodes.session[:-2]).sum()
    assert told["sessions_per_episode"] == pytest.approx(1 + told["boundaries"] / 24)
    assert told["action"]["share_of_each"] == pytest.approx(np.bincount(episodes.action.ravel()) / 1440, abs=1e-5)
    assert told["reward_range"] == [episodes.reward.min(), episodes.reward.max()]
    continuous = collected(tmp_path / "point", "point_robot").card["statistics"]["action"]
    assert continuous["deviation"] == pytest.approx([3**-0.5] * 2, rel=0.1)


def test_policies_share_the_shards_by_their_weights():
    config, env = configs.Config(env="probe_match"), registry.make("probe_match")
    plan = sources.Sources(("random=3", "random=1.0"), config, env, 4).plan(40)
    words = [who.word for who in plan]
    assert words.count("random=3") == 30
    assert max(words[i : i + 8].count("random=3") for i in range(32)) <= 7  # spread, not one after the other


@pytest.mark.parametrize(
    "word",
    ["", "randm", "random:runs/a", "expert", "expert:", "expert:runs/a=0", "random=-1", "random=x", "random=1.2.3"],
)
def test_a_word_that_names_no_policy_is_refused(word):
    with pytest.raises(UserError, match="policy is .*; it must be random, or expert, medium or mixed of a run"):
        sources.Policy.parse(word)


def test_a_policy_is_a_kind_a_run_and_a_weight():
    policy = sources.Policy.parse("mixed:runs/my=run=0.25")
    assert (policy.kind, str(policy.run), policy.weight) == ("mixed", "runs/my=run", 0.25)


def _damages():
    def cut(folder):
        path = dataset.files(folder, 1)[0]
        path.write_bytes(path.read_bytes()[:-7])

    def flip(folder):
        path = dataset.files(folder, 1)[1]
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(data)

    def lose(folder):
        dataset.files(folder, 0)[0].unlink()

    def card(folder):
        (folder / dataset.CARD).write_text("{")

    def later(folder):
        path = folder / dataset.CARD
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 9}))

    def without(folder):
        path = folder / dataset.CARD
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "shards"}))

    def link(folder):
        path = dataset.files(folder, 1)[0]
        path.rename(folder / "elsewhere")
        path.symlink_to(folder / "elsewhere")

    def fewer(folder):
        path = folder / dataset.CARD
        told = json.loads(path.read_text())
        told["shards"][0]["episodes"] = 3
        path.write_text(json.dumps(told))

    def empty(folder):
        path = folder / dataset.CARD
        path.write_text(json.dumps(json.loads(path.read_text()) | {"shards": []}))

    def unhashed(folder):
        path = folder / dataset.CARD
        told = json.loads(path.read_text())
        told["shards"][0]["sha256"].pop()
        path.write_text(json.dumps(told))

    return [
        (link, "is a symbolic link; it must be a file"),
        (fewer, "shard 0 of .* has 4 episodes, not 3"),
        (empty, "it does not say what its shards are"),
        (unhashed, r"card\.json is damaged \(ValueError"),
        (cut, "does not match its SHA-256"),
        (flip, "does not match its SHA-256"),
        (lose, "can't be read: No such file"),
        (card, r"card\.json is damaged"),
        (later, "schema of .* is 9"),
        (without, r"card\.json is damaged \(KeyError: 'shards'\)"),
    ]


@pytest.mark.parametrize(("damage", "line"), _damages())
def test_a_damaged_set_ends_in_one_line(damage, line, tmp_path):
    collected(tmp_path)
    damage(tmp_path)
    env = registry.make("probe_match")
    with pytest.raises(UserError, match=line) as caught:
        Windows.of_config(offline_config(tmp_path), env)
    assert len(str(caught.value).splitlines()) == 1


def test_arrays_of_another_environment_are_refused(tmp_path):
    env = registry.make("probe_match")
    collected(tmp_path)
    visible = dataset.files(tmp_path, 0)[0]
    arrays = load_file(visible)
    save_file(arrays | {"action": arrays["action"].astype(np.float32)}, visible)
    with pytest.raises(UserError, match=r"action of .* is float32\[4, .*\]; of this environment it must be int32"):
        dataset.read_shard(tmp_path, 0, env)
    del arrays["reward"]
    save_file(arrays, visible)
    with pytest.raises(UserError, match="of this environment it must be|is missing"):
        dataset.read_shard(tmp_path, 0, env)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"env": "probe_memory"}, "are of env probe_match, and the run is of probe_memory"),
        ({"env_options": {"p": 0.5}}, "and the run is of {'p': 0.5}"),
        ({"digest": "0" * 16}, "have changed since the run began"),
    ],
)
def test_a_run_refuses_episodes_that_are_not_its_own(changes, line, tmp_path):
    collected(tmp_path)
    config = offline_config(tmp_path)
    if digest := changes.get("digest"):
        config = dataclasses.replace(config, offline=config.offline.replace(digest=digest))
    else:
        config = configs.changed(config, changes)
    with pytest.raises(UserError, match=line):
        Windows.of_config(config, configs.environment(config))


def test_physical_states_are_kept_where_they_are_needed(tmp_path):
    config = offline_config(tmp_path, "probe_termination", offline={"relabel": 0.5})
    collected(tmp_path, "probe_termination")
    assert not Dataset.open(tmp_path, registry.make("probe_termination")).card["physics"]
    with pytest.raises(UserError, match="hold no physical states, so it must be 0"):
        Windows.of_config(config, registry.make("probe_termination"))


def test_windows_cover_every_shard_in_each_pass_in_an_order_of_the_seed(tmp_path):
    whole = collected(tmp_path)
    of_shard = sum(x.nbytes for x in jax.tree.leaves(whole.read(0).replace(physics=None)))
    windows = Windows(whole, physics=False, seed=1, most_bytes=2 * of_shard)
    assert windows.shards == 2
    order = windows.order()
    passes = [[next(order) for _ in range(3)] for _ in range(3)]
    assert all(sorted(shard for window in each for shard in window) == list(range(6)) for each in passes)
    assert passes[0] != passes[1]
    again = Windows(whole, physics=False, seed=1, most_bytes=2 * of_shard).order()
    assert [next(again) for _ in range(9)] == [*passes[0], *passes[1], *passes[2]]
    other = Windows(whole, physics=False, seed=2, most_bytes=2 * of_shard).order()
    assert [next(other) for _ in range(9)] != [*passes[0], *passes[1], *passes[2]]


def test_who_plays_is_in_the_card_of_the_collection(tmp_path):
    card = collected(tmp_path, policies=("random=0.5",)).card
    assert card["policies"] == [{"policy": "random=0.5", "weight": 0.5, "config": None}]
    assert {shard["source"]["word"] for shard in card["shards"]} == {"random=0.5"}
    assert collection.PLAN in {path.name for path in tmp_path.iterdir()}
