"""Tables of fields and flags, from the dataclasses that hold them: names, defaults and the docstrings below them."""

import ast
import dataclasses
import inspect
import textwrap
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dynamite_jax import rules
from experiments.pages.blocks import table

ROOT = Path(__file__).parents[2]


def documentation(kind: type) -> dict[str, str]:
    """Field of a class -> the string literal below it, on one line; fields of its bases too.

    Args:
        kind: a class whose source can be read.
    """
    docstrings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for field, below in zip(definition.body, definition.body[1:], strict=False):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and type(below.value.value) is str:
                docstrings[field.target.id] = " ".join(below.value.value.split())
    return docstrings


def default(field: dataclasses.Field) -> Any:
    """Default of a field; `dataclasses.MISSING` where it must be given."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def fields(kind: type, prefix: str = "") -> str:
    """The table of a configuration's fields; those that are sections of their own are left out.

    Args:
        kind: a dataclass.
        prefix: of the names, `ppo.`.
    """
    described, hints = documentation(kind), get_type_hints(kind)
    rows = []
    for field in dataclasses.fields(kind):
        if not dataclasses.is_dataclass(hints[field.name]):
            name = f"`{prefix}{field.name}`"
            number = rules.allowed(prefix + field.name)
            parts = (
                [number] if number and get_origin(hints[field.name]) is tuple else [_type(hints[field.name]), number]
            )
            allowed = ", ".join(part for part in parts if part)
            rows.append([name, shown(default(field)), allowed, described[field.name]])
    return table(["field", "default", "must be", "meaning"], rows)


def flags(kind: type) -> str:
    """The table of a command's flags; sections, which are flags of their own, are left out.

    Args:
        kind: the dataclass that the command line is read into.
    """
    described, hints = documentation(kind), get_type_hints(kind)
    rows = []
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            continue
        flag, value = f"--{field.name.replace('_', '-')}", default(field)
        named = f"`{flag}`, `--no-{flag[2:]}`" if hints[field.name] is bool else f"`{flag}`"
        rows.append([named, "required" if value is dataclasses.MISSING else shown(value), described[field.name]])
    return table(["flag", "default", "meaning"], rows)


def shown(value: Any) -> str:
    """A value as a cell of a table; `-` where there is none."""
    if value is None or value == "" or (isinstance(value, tuple | dict) and not value):
        return "-"
    if isinstance(value, tuple):
        return f"`{' '.join(str(item) for item in value)}`"
    if isinstance(value, Path):
        return f"`{(value.relative_to(ROOT) if value.is_relative_to(ROOT) else value).as_posix()}`"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int) and value >= 10_000:
        return f"`{value:_}`"
    if isinstance(value, float):
        return f"`{value:.4g}`"
    return f"`{value}`"


def _type(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return f"list of {get_args(kind)[0].__name__}"
    return "on or off" if kind is bool else getattr(kind, "__name__", str(kind))
