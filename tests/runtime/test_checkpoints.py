"""Checkpoints restore every bit or refuse, and the newest valid one is chosen."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import assert_same
from damage import cut, files
from dynamite_jax.agents import running_statistics
from dynamite_jax.config import ARRAYS, SCHEMA
from dynamite_jax.runtime.checkpoints import CheckpointError, Checkpoints, SchemaError, from_schema_0
from restoring import restore


def state(value: float = 1.0):
    return {
        "params": {"kernel": jnp.arange(2048.0).reshape(64, 32) * value, "bias": jnp.ones(3, jnp.bfloat16) * value},
        "adam": (jnp.zeros((), jnp.int32), None),
        "key": jax.random.split(jax.random.key(int(value)), 2),
        "nothing": jnp.zeros((2, 0)),
        "finite": jnp.array([True, False]),
    }


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2, 3):
        checkpoints.save(step, state(step))
    checkpoints.wait()
    checkpoints.close()
    return tmp_path / "checkpoints"


def array_files(folder):
    return sorted(files(folder / "state"), key=lambda p: p.stat().st_size)


def test_every_type_comes_back_bit_for_bit_and_two_steps_are_kept(saved):
    step, restored, damaged = restore(saved, state())
    assert (step, damaged) == (3, [])
    assert_same(restored, state(3))
    assert sorted(p.name for p in saved.iterdir() if p.name.isdigit()) == ["2", "3"]


def test_a_saved_state_is_a_copy(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    array = np.ones(4, np.float32)
    checkpoints.save(1, {"x": array})
    array[:] = 7
    checkpoints.wait()
    _, restored, _ = checkpoints.restore({"x": jnp.zeros(4)})
    checkpoints.close()
    np.testing.assert_array_equal(np.asarray(restored["x"]), np.ones(4))


def test_a_digest_that_does_not_match_sends_back_to_the_step_before(saved):
    file = saved / "3" / "digests" / "metadata"
    digests = json.loads(file.read_text())
    digests["params.kernel"] = "0" * 64
    file.write_text(json.dumps(digests))
    step, restored, damaged = restore(saved, state())
    assert step == 2
    assert_same(restored, state(2))
    assert len(damaged) == 1 and "params.kernel does not match its SHA-256" in damaged[0]


def test_a_file_cut_short_sends_back_to_the_step_before(saved):
    for file in array_files(saved / "3"):
        cut(file)
    step, restored, damaged = restore(saved, state())
    assert step == 2 and len(damaged) == 1
    assert_same(restored, state(2))


def test_flipped_bytes_never_come_back_as_a_state(saved):
    """Wherever a byte is flipped, one of the two saved states is restored, unchanged."""
    for file in array_files(saved / "3"):
        data = bytearray(file.read_bytes())
        for position in range(len(data) // 2, len(data), max(1, len(data) // 3)):
            flipped = bytearray(data)
            flipped[position] ^= 0x10
            file.write_bytes(flipped)
            step, restored, _ = restore(saved, state())
            assert_same(restored, state(step))
        file.write_bytes(data)


def test_an_empty_step_folder_is_passed_over(saved):
    (saved / "9").mkdir()
    step, _, damaged = restore(saved, state())
    assert step == 3 and len(damaged) == 1


def test_nothing_valid_is_one_line(saved):
    for step in ("2", "3"):
        shutil.rmtree(saved / step / "state")
    with pytest.raises(CheckpointError, match="no older valid one is left") as error:
        restore(saved, state())
    assert "\n" not in str(error.value)


def test_no_checkpoint_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint under"):
        restore(tmp_path, state())


def test_a_checkpoint_of_a_later_schema_is_named_in_one_line(saved):
    about = saved / "3" / "about" / "metadata"
    assert json.loads(about.read_text()) == {"schema": SCHEMA}
    about.write_text(json.dumps({"schema": SCHEMA + 1}))
    with pytest.raises(CheckpointError) as caught:
        restore(saved, state())
    cause = f"its schema is {SCHEMA + 1}; this version of dynamite_jax reads 0 to {SCHEMA}"
    assert str(caught.value) == f"checkpoint {saved / '3'}: {cause}"


@pytest.mark.parametrize("schema", range(ARRAYS))
def test_a_state_of_an_earlier_schema_does_not_go_on(saved, schema):
    if schema:
        (saved / "3" / "about" / "metadata").write_text(json.dumps({"schema": schema}))
    else:
        shutil.rmtree(saved / "3" / "about")
    with pytest.raises(
        SchemaError, match="an earlier version wrote it; its run can be evaluated and plotted, but not go"
    ):
        restore(saved, state())


def test_a_state_of_the_schema_before_goes_on(saved):
    (saved / "3" / "about" / "metadata").write_text(json.dumps({"schema": ARRAYS}))
    assert_same(restore(saved, state())[1], state(3))


def test_all_steps_are_kept_where_that_is_asked_for_and_any_can_be_read(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=0)
    for step in (1, 2, 5):
        checkpoints.save(step, state(step))
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2, 5]
    assert_same(checkpoints.read(2, {"params": state()["params"]}), {"params": state(2)["params"]})
    for path in array_files(tmp_path / "2"):
        cut(path)
    with pytest.raises(CheckpointError, match="checkpoint .*2: "):
        checkpoints.read(2, {"params": state()["params"]})
    checkpoints.close()


def test_the_part_of_schema_1_that_acts_is_read(saved):
    (saved / "3" / "about" / "metadata").write_text(json.dumps({"schema": 1}))
    checkpoints = Checkpoints(saved)
    step, part, damaged = checkpoints.restore({"params": state()["params"]}, part=True)
    checkpoints.close()
    assert (step, damaged) == (3, [])
    assert_same(part, {"params": state(3)["params"]})


@pytest.mark.parametrize("observed", [6, 8])
def test_statistics_of_schema_0_are_read_as_moments(observed):
    """The oracle's observation has grown by the context (here to 8): statistics of its features replace its own."""
    rng = np.random.default_rng(0)
    shapes = {"features": (2, 8), "observation": (2, 6), "reward": (2,), "returns": (2,)}
    old = {f"normaliser.{m}.{name}": rng.random(shape) for m in ("mean", "std") for name, shape in shapes.items()}
    fresh = jax.vmap(lambda _: running_statistics.init(8, observed))(jnp.arange(2))
    leaves = jax.tree_util.tree_leaves_with_path(fresh)
    names = {f"normaliser.{jax.tree_util.keystr(path, simple=True, separator='.')}": x for path, x in leaves}
    template = {name: np.asarray(leaf) for name, leaf in names.items()}
    read = from_schema_0(old | {"normaliser.count.lo": np.zeros(2), "policy_params.kernel": np.ones(3)}, template)
    assert read.keys() == template.keys() | {"policy_params.kernel"}
    assert all(read[name].shape == leaf.shape for name, leaf in template.items())
    for name in shapes:
        source = "features" if name == "observation" and observed == 8 else name
        np.testing.assert_array_equal(read[f"normaliser.mean.{name}.value"], old[f"normaliser.mean.{source}"])
        np.testing.assert_allclose(np.sqrt(read[f"normaliser.variance.{name}.value"]), old[f"normaliser.std.{source}"])
        assert not read[f"normaliser.mean.{name}.error"].any()


@pytest.mark.parametrize("change", [{"extra": jnp.zeros(1)}, {"finite": jnp.zeros(3, bool)}, {"finite": jnp.zeros(2)}])
def test_arrays_of_another_run_are_refused(saved, change):
    checkpoints = Checkpoints(saved)
    with pytest.raises(CheckpointError):
        checkpoints.restore(state() | change)
    checkpoints.close()
