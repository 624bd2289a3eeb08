"""Sets of episodes as those of Minari, and back.

What an agent meets are Minari's own fields; what is hidden stands in the `infos` of the steps s_0 .. s_H: `session`,
`latent` (the context as the environment holds it, as in the `info` of its Gymnasium form with `labels`), and `physics`
where physical states are kept. An episode ends where its task does.
"""

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_envs.errors import UserError
from dynamite_envs.spaces import Box, Discrete
from dynamite_jax.datasets import collection
from dynamite_jax.datasets.dataset import Arrays, Dataset, digest_of_file, from_arrays, template, to_arrays
from dynamite_jax.datasets.recording import Episodes
from dynamite_jax.datasets.sources import Played
from dynamite_jax.datasets.windows import MOST_BYTES
from dynamite_jax.errors import writing

if TYPE_CHECKING:
    import minari

LARGER = 10
"""How many times the size of a set of ours one of Minari's may have; HDF5 does not survive a full disk."""
CARD = "dynamite_card"
"""In Minari's metadata, what `card.json` says of the set that was written."""
FIELDS = {"observation": "observations", "action": "actions", "reward": "rewards", "terminated": "terminations"}
NAME = re.compile(r"(\w[\w-]*/)*\w[\w.-]*-v\d+")
"""Of those that Minari takes, the ones without a way out of its folder."""
HIDDEN = {"session": "session", "context": "latent", "physics": "physics"}


def library() -> Any:
    """Minari.

    Raises:
        UserError: it is not installed.
    """
    try:
        import h5py  # noqa: F401 - what it keeps episodes in
        import minari
    except ImportError as error:
        raise UserError(
            f'{error.name} is not installed; `make setup EXTRAS=minari` or pip install "minari[hdf5]" does it'
        ) from None
    return minari


def write(dataset: Dataset, name: str, say: Callable[[int, int], None]) -> Path:
    """Write a set among Minari's own on this machine, whole or not at all.

    Args:
        dataset: what to write.
        name: Minari's, as in `gridworld/mixed-v0`.
        say: is told how many of how many shards are written.

    Returns:
        Its folder.

    Raises:
        UserError: the name is none of Minari's or is taken, a shard is damaged, or nothing can be written.
    """
    minari = library()
    import gymnasium
    from minari.dataset.minari_storage import MinariStorage

    import dynamite_envs.gym

    folder = _folder(name)
    if taken := next((path for path in (folder, *folder.parents[: name.count("/")]) if _is_taken(path, folder)), None):
        raise UserError(f"name is {name!r}, which is taken: {taken} is a set")
    try:
        words = " ".join(policy["policy"] for policy in dataset.card["policies"])
        requirement = f"dynamite-jax=={dataset.card['versions']['dynamite-jax']}"
    except (KeyError, TypeError) as error:
        raise UserError(f"data: the card of {dataset.folder} is damaged ({type(error).__name__}: {error})") from None
    dynamite_envs.gym.register()
    registered = dynamite_envs.gym.name(dataset.card["env"])
    env = gymnasium.make(registered, **dataset.card["env_options"])
    if env.spec is None:
        raise ValueError(f"{registered} was made without a specification")
    with writing(folder, "name"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        held = sum(path.stat().st_size for path in dataset.folder.iterdir())
        if (free := shutil.disk_usage(folder.parent).free) < LARGER * held:
            raise OSError(f"{free / 1e6:.0f} MB are free, and it may take {LARGER * held / 1e6:.0f}")
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            part.chmod(folder.parent.stat().st_mode)  # a temporary folder is its owner's alone
            storage = MinariStorage.new(part / "data", env.observation_space, env.action_space, env.spec)
            storage.update_metadata(
                {
                    "dataset_id": name,
                    "minari_version": minari.__version__,
                    "algorithm_name": words,
                    "requirements": [requirement],
                    CARD: dataset.card,
                }
            )
            for number in range(len(dataset.shards)):
                storage.update_episodes(list(_buffers(dataset.read(number))))
                say(number + 1, len(dataset.shards))
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def _buffers(episodes: Episodes) -> Iterator[Any]:
    """Episodes as Minari takes them."""
    from minari.data_collector import EpisodeBuffer

    arrays, steps = to_arrays(episodes), np.asarray(episodes.valid).sum(0)
    horizon = arrays["reward"].shape[1]
    for number, length in enumerate(steps):
        shown = {theirs: arrays[ours][number] for ours, theirs in FIELDS.items()}
        infos: dict[str, Any] = {}
        for path, array in arrays.items():
            field, *inner = path.split(".")
            if field in HIDDEN and array.size:  # HDF5 has no chunks of nothing
                group = infos
                *groups, last = HIDDEN[field], *inner
                for key in groups:
                    group = group.setdefault(key, {})
                group[last] = array[number, : length + 1]
        yield EpisodeBuffer(
            observations=shown.pop("observations")[: length + 1],
            truncations=np.arange(length) == horizon - 1,  # pyright: ignore[reportArgumentType]
            infos=infos,
            **{name: array[:length] for name, array in shown.items()},
        )


@dataclass(frozen=True)
class MinariSet:
    """A set of Minari's on this machine.

    Attributes:
        name: Minari's.
    """

    name: str

    @cached_property
    def data(self) -> "minari.MinariDataset":
        """What Minari reads; nothing is downloaded, and nothing that the files name is run.

        Raises:
            UserError: there is none of that name, or it is damaged.
        """
        minari = library()
        folder = _folder(self.name) / "data"
        if not folder.is_dir():
            raise UserError(f"name is {self.name!r}, which Minari does not have here: there is no {folder}")
        if link := next((path for path in (folder, *folder.rglob("*")) if path.is_symlink()), None):
            raise UserError(f"name is {self.name!r}, in which {link} is a symbolic link; it must be a file")
        with self._damage():
            metadata = json.loads((folder / "metadata.json").read_text())
            for name in ("observation_space", "action_space"):  # without them Minari would make the environment
                if not isinstance(metadata[name], str):
                    raise TypeError(f"{name} is {metadata[name]!r}")
            return minari.MinariDataset(folder)

    @property
    def env(self) -> tuple[str, dict[str, Any]] | None:
        """The environment of ours that it is of, and its options; None of another one."""
        from dynamite_envs.gym import NAMESPACE

        spec = self.data.env_spec
        options = dict(spec.kwargs) if spec is not None and isinstance(spec.kwargs, dict) else {}
        env = options.pop("env", None)
        if spec is None or spec.namespace != NAMESPACE or not isinstance(env, str) or "name" in options:
            return None
        if options.pop("feedback", False):
            raise UserError(
                f"name is {self.name!r}, which was recorded with feedback=True; observations are read without"
            )
        return env, {key: value for key, value in options.items() if key not in ("labels", "render_mode")}

    @cached_property
    def digest(self) -> str:
        """Of its files.

        Raises:
            UserError: one can't be read.
        """
        paths = sorted(path for path in (_folder(self.name) / "data").rglob("*") if path.is_file())
        return hashlib.sha256(" ".join(map(digest_of_file, paths)).encode()).hexdigest()[:16]

    def collect(self, env: DLCMDP, plan: dict[str, Any], out: Path, say: Callable[[int, int], None]) -> Dataset:
        """Write it as a set of ours; the same call goes on with one that was cut off.

        Args:
            env: the environment that it is of.
            plan: `env`, `env_options` and `shard`, the episodes of a shard.
            out: folder, new, empty, or that of the same set.
            say: is told how many of how many shards are written.

        Raises:
            UserError: what training needs is missing or of another kind; or the folder holds something else.
        """
        total, shard = self.data.total_episodes, plan["shard"]
        if not total:
            raise UserError(f"name is {self.name!r}, which has no episode")
        with self._damage():
            for path in (_folder(self.name) / "data").iterdir():
                if place := _outward(path):
                    raise UserError(f"name is {self.name!r}, in which {path} takes {place} from elsewhere")
        size = sum(
            array.nbytes for name, array in to_arrays(template(env, 1)).items() if not name.startswith("physics")
        )
        if total % shard and total * size > MOST_BYTES:
            most = f"{MOST_BYTES / 2**30:.0f} GiB"
            raise UserError(f"shard is {shard}; in a set of more than {most} it must divide the {total} episodes")
        physics = "physics" in _infos(next(iter(self._episodes(range(1)))))
        word = f"minari:{self.name}"
        count = -(-total // shard)
        plan = plan | {
            "policies": [{"policy": word, "digest": self.digest, "card": self.data.storage.metadata.get(CARD)}],
            "episodes": total,
            "seed": None,
            "played": [asdict(Played(word))] * count,
        }

        def read(number: int) -> Episodes:
            return self.read(range(number * shard, min((number + 1) * shard, total)), env, physics)

        return collection.record(plan, read, env, out, say)

    def read(self, numbers: range, env: DLCMDP, physics: bool) -> Episodes:
        """Some of its episodes, time-major, on the host.

        Behind the end of a task its last state is repeated.

        Args:
            numbers: of the episodes.
            env: the environment that they are of.
            physics: whether they hold physical states.

        Raises:
            UserError: names the first field that is missing or not as in the environment's episodes.
        """
        expected = to_arrays(template(env, 1))
        if not physics:
            expected = {name: array for name, array in expected.items() if name.partition(".")[0] != "physics"}
        parts = []
        for number, episode in zip(numbers, self._episodes(numbers), strict=True):
            source = f"episode {number} of {self.name}"
            if ("physics" in _infos(episode)) != physics:
                raise UserError(f"{source} {'lacks' if physics else 'holds'} physical states, unlike the first one")
            with self._damage():
                parts.append(_arrays(episode, _infos(episode), expected, env, source))
        return from_arrays({name: np.stack([part[name] for part in parts]) for name in expected}, env, self.name)

    def _episodes(self, numbers: range) -> list[Any]:
        with self._damage():
            return list(self.data.iterate_episodes(self.data.episode_indices[numbers.start : numbers.stop]))

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        """What Minari, HDF5 and NumPy raise where files are not what they should be, as one line."""
        import gymnasium

        try:
            yield
        except UserError:
            raise
        except (
            *(OSError, ValueError, LookupError, AssertionError, TypeError, AttributeError, RuntimeError, ImportError),
            gymnasium.error.Error,
        ) as error:
            what = " ".join(str(error).split()) or "it is not what Minari writes"
            raise UserError(
                f"name is {self.name!r}, which Minari can't read ({type(error).__name__}: {what})"
            ) from None


def _folder(name: str) -> Path:
    """Where Minari has a set of this name.

    Raises:
        UserError: no set of Minari's has such a name, or its folder of all sets can't be made.
    """
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage.datasets_root_dir import get_dataset_path

    try:
        parse_dataset_id(name)
        if not NAME.fullmatch(name):
            raise ValueError(name)
    except (ValueError, TypeError):  # the latter where the version is missing
        raise UserError(f"name is {name!r}; it must be one of Minari's, as gridworld/mixed-v0") from None
    try:
        return get_dataset_path(name)
    except OSError as error:
        raise UserError(f"name is {name!r}; the folder of Minari's sets can't be made: {error}") from None


def _outward(path: Path) -> str | None:
    """The first place of an HDF5 file whose contents lie elsewhere, behind a link or in other files, or None."""
    import h5py

    if not h5py.is_hdf5(path):
        return None
    with h5py.File(path) as file:

        def leads_out(name: str, link: Any) -> str | None:
            if not isinstance(link, h5py.HardLink):
                return name
            item = file[name]
            outside = isinstance(item, h5py.Dataset) and (item.external or item.is_virtual)
            return name if outside else None

        return file.visititems_links(leads_out)


def _infos(episode: Any) -> dict[str, Any]:
    return episode.infos if isinstance(episode.infos, dict) else {}


def _is_taken(path: Path, folder: Path) -> bool:
    """Whether there is a set already, in a folder or in one above it, in which Minari would not look for others."""
    return path.exists() if path == folder else (path / "data").exists()


def _arrays(episode: Any, infos: dict[str, Any], expected: Arrays, env: DLCMDP, source: str) -> Arrays:
    """One episode as arrays of ours, each as long as the horizon.

    Args:
        episode: Minari's.
        infos: its `infos`.
        expected: arrays of one episode of the environment, for names, shapes and types.
        env: it.
        source: the episode's name, for messages.

    Raises:
        UserError: names the first field that is missing or of another kind.
    """
    length, ends = len(episode.rewards), np.asarray(episode.terminations, bool)
    if not (length == env.horizon or (length < env.horizon and ends[-1:].any())):
        raise UserError(
            f"{source} has {length} steps; it must have the environment's {env.horizon}, or end with its task"
        )
    if ends[:-1].any():
        raise UserError(f"{source} goes on behind the end of its task, step {int(ends.argmax())}")
    given: dict[str, Any] = {ours: getattr(episode, theirs) for ours, theirs in FIELDS.items()}
    given |= {ours: infos[theirs] for ours, theirs in HIDDEN.items() if theirs in infos}
    arrays = {}
    for name, like in expected.items():
        field, *inner = name.split(".")
        value = given.get(field)
        for key in inner:
            value = value.get(key) if isinstance(value, dict) else None
        theirs = FIELDS.get(field) or ".".join(("infos", HIDDEN[field], *inner))
        if value is None and like.size:
            hint = " (gymnasium.make(..., labels=True) records it)" if field in ("session", "context") else ""
            raise UserError(f"{source} has no {theirs}, which training needs{hint}")
        steps = length + (like.shape[1] - env.horizon)  # s_0 .. s_n, or what n steps between them did
        shape = (steps, *like.shape[2:])
        array = _as_typed(
            np.zeros(shape, like.dtype) if value is None else np.asarray(value), shape, like.dtype, theirs, source
        )
        if field == "action":
            array = _executed(array, env, source)
        rest = {"action": np.zeros_like, "reward": np.zeros_like, "terminated": np.ones_like}.get(field, np.array)
        padding = [rest(array[-1:])] * (like.shape[1] - steps)
        arrays[name] = np.concatenate([array, *padding])
    return arrays


def _as_typed(array: np.ndarray, shape: tuple[int, ...], kind: np.dtype, field: str, source: str) -> np.ndarray:
    """An array in the environment's type.

    Raises:
        UserError: it is of another shape or kind, or a number has no place in that type.
    """
    if array.shape != shape or not np.can_cast(array.dtype, kind, "same_kind"):
        given, wanted = (f"{a}{list(b)}" for a, b in ((array.dtype, array.shape), (kind, shape)))
        raise UserError(f"{field} of {source} is {given}; it must be {wanted}")
    with np.errstate(over="ignore"):
        typed = array.astype(kind)
    if kind.kind != "f" and not np.array_equal(typed, array):
        raise UserError(f"{field} of {source} holds a number that is too large")
    if kind.kind == "f" and not field.startswith("infos.physics") and not np.isfinite(typed).all():
        raise UserError(f"{field} of {source} holds a number that is not finite")
    return typed


def _executed(action: np.ndarray, env: DLCMDP, source: str) -> np.ndarray:
    """Actions as the environment executes them.

    Raises:
        UserError: one is none of the environment's.
    """
    space = env.action_space
    if isinstance(space, Box):
        return np.asarray(space.clip(jnp.asarray(action)))
    if isinstance(space, Discrete) and not ((action >= 0) & (action < space.size)).all():
        raise UserError(f"actions of {source} are {action.min()} to {action.max()}; they must be 0 to {space.size - 1}")
    return action
