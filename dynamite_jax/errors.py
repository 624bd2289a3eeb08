"""How commands report bad input: one line on stderr and exit code 2."""

import contextlib
import functools
import importlib
import io
import itertools
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamite_envs.errors import FallbackWarning, UserError
from dynamite_jax.cli import COMMANDS
from dynamite_jax.runtime.interruption import EXIT_CODE, Interrupted


class ConfigError(UserError):
    """A field has a value that is not allowed; the message is one line with field, value and what is allowed."""


def one_line_errors(main: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command: a `UserError` becomes one line on stderr and exit code 2; every other exception traces.

    A `FallbackWarning` is one line, too, and so is the end of a command that a signal stops: exit code 75 where a run
    was kept first, 130 otherwise.

    Plugins that the command line names are imported first.
    """

    @functools.wraps(main)
    def wrapped(*arguments: Any) -> Any:
        for name in ("absl", "asyncio"):  # orbax logs there what it raises, too
            logging.getLogger(name).setLevel(logging.CRITICAL)
        sys.unraisablehook = _without_late_reads(sys.unraisablehook)
        with warnings.catch_warnings():
            warnings.showwarning = _one_line_warning(warnings.showwarning)
            try:
                _import_plugins(sys.argv[1:])
                return main(*arguments)
            except UserError as error:
                print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
                raise SystemExit(2) from None
            except KeyboardInterrupt as stop:
                print(f"\n{stop if stop.args else 'stopped'}", file=sys.stderr)
                raise SystemExit(EXIT_CODE if isinstance(stop, Interrupted) else 130) from None

    return wrapped


def _without_late_reads(show: Callable[..., None]) -> Callable[..., None]:
    """Show nothing of reads of orbax that end, or are given up, after another one has failed, whose error is raised."""

    def show_unraisable(unraisable: Any) -> None:
        error = unraisable.exc_value
        given_up = isinstance(getattr(error, "__cause__", None), GeneratorExit)
        if not given_up and str(error) != "Event loop is closed":
            show(unraisable)

    return show_unraisable


def _one_line_warning(show: Callable[..., None]) -> Callable[..., None]:
    """Show what concerns the user without the line of code that warns of it, and everything else as before."""

    def show_warning(message: Any, category: type[Warning], *rest: Any, **named: Any) -> None:
        if issubclass(category, FallbackWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            show(message, category, *rest, **named)

    return show_warning


@dataclass(frozen=True, kw_only=True)
class Plugins:
    """Arguments of every command."""

    plugin: tuple[str, ...] = ()
    """Modules of your own that register environments or methods; they are looked for in the current folder, too."""


PLUGINS: list[str] = []
"""Names of the modules that this process imported for `--plugin`."""


def _import_plugins(argv: list[str]) -> None:
    """Import the modules named by `--plugin`: they may register names that the other arguments use.

    Raises:
        UserError: there is no such module.
    """
    names: list[str] = []
    for position, word in enumerate(argv):
        if word.startswith("--plugin="):
            names.append(word.partition("=")[2])
        elif word == "--plugin":
            names += itertools.takewhile(lambda name: not name.startswith("-"), argv[position + 1 :])
    if names and "" not in sys.path:
        sys.path.insert(0, "")
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.partition(".")[0]:
                raise  # a bug of the plugin
            raise UserError(f"plugin is {name!r}; it must be a module that can be imported from here") from None
        PLUGINS.append(name)


def check_folder(out: Path) -> None:
    """Refuse a file whose folder is not there, before anything is computed for it.

    Raises:
        UserError: names the file and the folder.
    """
    if not out.parent.is_dir():
        raise ConfigError(f"out is {str(out)!r}; {str(out.parent)!r} must be a folder")


@contextlib.contextmanager
def writing(path: Path, field: str = "out") -> Iterator[None]:
    """Turn a failure to write into an error of one line.

    Args:
        path: file or folder that is written in the block.
        field: name of the path in the message.

    Raises:
        UserError: names the path and the cause.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{field} is {str(path)!r}, which can't be written: {error.strerror or error}") from None


def parse(kind: Any, argv: list[str], **options: Any) -> Any:
    """Command line -> dataclass by tyro, whose boxed errors become one line.

    Args:
        kind: the dataclass, of the module that is the command.
        argv: the arguments of the command.
        **options: of `tyro.cli`.

    Raises:
        UserError: a flag that is unknown or can't be read.
        SystemExit: `--help` was asked for.
    """
    import tyro  # here, since reading and training a config need none of it

    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            return tyro.cli(kind, args=argv, prog=_program(kind), **options)
    except SystemExit as stop:
        if not stop.code:
            raise
    lines = [
        re.sub(r"[\u2500-\u257f]", " ", re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in output.getvalue().splitlines()
    ]
    text = " ".join(" ".join(lines).split()).removeprefix("Value error Error parsing ")
    raise UserError(re.sub(r" ?(Argument helptext|Full helptext|For full helptext|Run).*", "", text))


def _program(kind: Any) -> str:
    """How the command with these arguments is started."""
    spec = sys.modules[kind.__module__].__spec__  # it also holds the name of a module that is run
    module = spec.name if spec else kind.__module__
    names = {path: name for name, (path, _) in COMMANDS.items()}
    return f"dynamite-jax {names[module]}" if module in names else f"python -m {module}"
