"""Name -> method. A method is one small file with what differs; the training step is the same for all."""

from collections.abc import Iterator, Mapping
from pkgutil import resolve_name

from dynamite_envs.errors import UserError
from dynamite_jax.methods.method import Method

__all__ = ["METHODS", "Method", "of_setting", "register"]


class _Methods(Mapping[str, Method]):
    """Methods by their names, each imported when it is asked for."""

    def __init__(self, *names: str):
        """Methods that lie in modules of their names."""
        self._methods: dict[str, str | Method] = {name: f"dynamite_jax.methods.{name}:METHOD" for name in names}

    def __getitem__(self, name: str) -> Method:
        method = self._methods[name]
        return resolve_name(method) if isinstance(method, str) else method

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)

    def add(self, name: str, method: Method) -> None:
        """Append a method."""
        self._methods[name] = method


METHODS = _Methods("dynamite", "varibad", "secbad", "contrabar", "rl2", "task_inference", "oracle", "markov", "borel")


def of_setting(setting: str) -> tuple[str, ...]:
    """Names of the methods that can learn `online`, or `offline`."""
    return tuple(name for name, method in METHODS.items() if setting in method.settings)


def register(name: str, method: Method) -> None:
    """Make a method known by a name, for configs and the command line.

    Raises:
        UserError: another method has the name.
    """
    if name in METHODS and METHODS[name] != method:
        raise UserError(f"method is {name!r}, which another method is called; known are {', '.join(METHODS)}")
    METHODS.add(name, method)
