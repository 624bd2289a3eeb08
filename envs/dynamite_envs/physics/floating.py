"""The processor's floating-point mode of a thread, set and put back.

XLA's threads flush numbers below 1e-38 to zero. What is computed by one of them and what by another thread should not
differ by that.
"""

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial


@contextlib.contextmanager
def _posix_mode(get_mode: Callable, set_mode: Callable, default: ctypes.c_void_p) -> Iterator[None]:
    environment = ctypes.create_string_buffer(256)  # an fenv_t is 8 to 48 bytes
    get_mode(environment)
    set_mode(default)
    try:
        yield
    finally:
        set_mode(environment)


@contextlib.contextmanager
def _windows_mode(library: ctypes.PyDLL) -> Iterator[None]:
    denormals, keep_denormals = 0x03000000, 0  # _MCW_DN and _DN_SAVE
    before, now = ctypes.c_uint(), ctypes.c_uint()
    library._controlfp_s(ctypes.byref(before), 0, 0)
    library._controlfp_s(ctypes.byref(now), keep_denormals, denormals)
    try:
        yield
    finally:
        library._controlfp_s(ctypes.byref(now), before.value & denormals, denormals)


def default_mode() -> Callable[[], AbstractContextManager[None]]:
    """A context in which a thread computes as the C standard says: it rounds to nearest and keeps small numbers.

    Raises:
        OSError, AttributeError: the C library that does so is not here.
    """
    if sys.platform == "win32":
        return partial(_windows_mode, ctypes.PyDLL("ucrtbase"))
    library = ctypes.PyDLL(None)  # Python's own libm
    if sys.platform == "darwin":
        default = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(library, "_FE_DFL_ENV")))
    else:
        default = ctypes.c_void_p(-1)  # FE_DFL_ENV of glibc and musl
    get_mode, set_mode = library.fegetenv, library.fesetenv
    return partial(_posix_mode, get_mode, set_mode, default)
