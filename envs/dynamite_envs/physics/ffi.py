"""A Python function as an operation of compiled programs on the CPU, without a compiler and without a host callback.

XLA calls foreign functions by a C interface of its own (xla/ffi/api/c_api.h). `register` decodes its call frames by
ctypes, so that a program which holds the operation is kept in the compilation cache like any other, which none with
`jax.pure_callback` is. Only what one array in and one array out need is decoded.
"""

import ctypes
import math
import traceback
from collections.abc import Callable
from ctypes import POINTER, Structure, c_char, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p

import jax
import numpy as np

VERSIONS = ((0, 3), (0, 4), (0, 5))  # of the interface, whose structures are laid out as below
INTERNAL = 13  # XLA's code of an error of ours
DTYPES = {11: np.dtype(np.float32), 12: np.dtype(np.float64)}  # by XLA's numbers

Function = Callable[[bytes, np.ndarray, np.ndarray], None]


class Unsupported(Exception):
    """This JAX speaks another version of the interface."""


class _Extension(Structure):
    _fields_ = [("struct_size", c_size_t), ("kind", c_int), ("next", c_void_p)]


class _Version(Structure):
    _fields_ = [("struct_size", c_size_t), ("extension", c_void_p), ("major", c_int), ("minor", c_int)]


class _Api(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("version", _Version),
        ("internal", c_void_p),
        ("create_error", c_void_p),
    ]


class _Metadata(Structure):
    _fields_ = [("struct_size", c_size_t), ("version", _Version), ("traits", c_uint32), ("state_type", c_int64)]


class _MetadataExtension(Structure):
    _fields_ = [("base", _Extension), ("metadata", POINTER(_Metadata))]


class _Buffer(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("dtype", c_int),
        ("data", c_void_p),
        ("rank", c_int64),
        ("dims", POINTER(c_int64)),
    ]


class _Buffers(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("size", c_int64),
        ("kinds", c_void_p),
        ("values", POINTER(POINTER(_Buffer))),
    ]


class _Text(Structure):
    _fields_ = [("start", c_void_p), ("length", c_size_t)]


class _Attributes(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("size", c_int64),
        ("kinds", c_void_p),
        ("names", c_void_p),
        ("values", POINTER(POINTER(_Text))),
    ]


class _CallFrame(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("api", POINTER(_Api)),
        ("context", c_void_p),
        ("stage", c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
        ("attributes", _Attributes),
    ]


class _ErrorArguments(Structure):
    _fields_ = [("struct_size", c_size_t), ("extension", c_void_p), ("message", c_char_p), ("code", c_int)]


_METADATA = 1  # kind of the extension by which XLA asks a handler for its version, once, as it is registered
_create_error = ctypes.CFUNCTYPE(c_void_p, c_void_p)
_handler_type = ctypes.CFUNCTYPE(c_void_p, POINTER(_CallFrame))
_handlers: dict[str, Callable] = {}  # XLA calls them as long as the process lives


def register(name: str, function: Function) -> None:
    """Make a function callable from compiled programs on the CPU by `call`.

    Args:
        name: of the operation, the same in every process, since it is kept in compiled programs.
        function: (key, argument [n, i], result [n, o] to fill) -> None; leading axes of arrays are made one. It is
            called by several threads at once. What it raises ends the program with an exception that names it.

    Raises:
        Unsupported: see there.
    """
    if name in _handlers:
        return
    versions = []
    handler = _handler_type(_handler(function, versions))
    address = ctypes.cast(handler, c_void_p).value
    jax.devices("cpu")  # without a client, XLA would put the registration off, and with it its question for the version
    try:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(address), platform="cpu")
    except Exception as error:
        raise Unsupported(f"XLA's foreign functions of version {versions or 'unknown'}: {error}") from error
    if not versions or versions[0] not in VERSIONS:
        spoken = ".".join(map(str, versions[0])) if versions else "unknown"
        known = ", ".join(f"{major}.{minor}" for major, minor in VERSIONS)
        raise Unsupported(f"XLA's foreign functions are of version {spoken}, and known are {known}")
    _handlers[name] = handler


def call(name: str, key: str, argument: jax.Array, size: int) -> jax.Array:
    """What the function of a name makes of an array.

    Args:
        name: of a registered function.
        key: handed on to it; kept in the compiled program.
        argument: [i], floating point; under `vmap` all of a batch go to one call.
        size: of the result, o.

    Returns:
        The result, [o], of the argument's type.
    """
    shape = jax.ShapeDtypeStruct((size,), argument.dtype)
    return jax.ffi.ffi_call(name, shape, vmap_method="broadcast_all")(argument, key=key)


def _handler(function: Function, versions: list[tuple[int, int]]) -> Callable:
    """What XLA calls: None, or the address of an error."""

    def handler(pointer: ctypes.c_void_p) -> int | None:
        frame = pointer.contents  # pyright: ignore[reportAttributeAccessIssue]
        try:
            if frame.extension:
                return _answer(frame, versions)
            key = frame.attributes.values[0].contents
            key = ctypes.string_at(key.start, key.length)
            function(key, _array(frame.arguments.values[0]), _array(frame.results.values[0]))
        except BaseException as error:  # it can't pass through XLA
            lines = "".join(traceback.format_exception(error))
            message = _ErrorArguments(ctypes.sizeof(_ErrorArguments), None, lines.encode(), INTERNAL)
            return _create_error(frame.api.contents.create_error)(ctypes.addressof(message))

    return handler


def _answer(frame: _CallFrame, versions: list[tuple[int, int]]) -> None:
    """Take XLA's version for ours: `register` looks whether it is known."""
    extension = _MetadataExtension.from_address(frame.extension)
    if extension.base.kind == _METADATA:
        metadata, spoken = extension.metadata.contents, frame.api.contents.version
        versions.append((spoken.major, spoken.minor))
        metadata.version.major, metadata.version.minor = spoken.major, spoken.minor


def _array(buffer: POINTER(_Buffer)) -> np.ndarray:  # pyright: ignore[reportInvalidTypeForm]
    """The memory of a buffer, [n, last axis]."""
    buffer = buffer.contents
    dims, dtype = buffer.dims[: buffer.rank], DTYPES[buffer.dtype]
    memory = (c_char * (math.prod(dims) * dtype.itemsize)).from_address(buffer.data)
    return np.frombuffer(memory, dtype).reshape(-1, dims[-1])
