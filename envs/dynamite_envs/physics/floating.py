"""The processor's floating-point mode of a thread, set and put back.

XLA's threads flush numbers below 1e-38 to zero. What is computed by one of them and what by another thread should not
differ by that.
"""

import ctypes
import sys

_KEEP_DENORMALS, _DENORMALS = 0, 0x03000000  # _DN_SAVE and _MCW_DN of Windows


class _PosixMode:
    """By the C standard's `fenv.h`."""

    def __init__(self):
        library = ctypes.PyDLL(None)  # Python's own libm
        self._get, self._set = library.fegetenv, library.fesetenv
        self._before = ctypes.create_string_buffer(256)  # an fenv_t has 8 to 48 bytes
        if sys.platform == "darwin":
            self._default = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(library, "_FE_DFL_ENV")))
        else:
            self._default = ctypes.c_void_p(-1)  # FE_DFL_ENV of glibc and musl

    def __enter__(self) -> None:
        self._get(self._before)
        self._set(self._default)

    def __exit__(self, *_: object) -> None:
        self._set(self._before)


class _WindowsMode:
    """By the Universal C Runtime."""

    def __init__(self):
        self._control = ctypes.PyDLL("ucrtbase")._controlfp_s
        self._before, self._now = ctypes.c_uint(), ctypes.c_uint()

    def __enter__(self) -> None:
        self._control(ctypes.byref(self._before), 0, 0)
        self._control(ctypes.byref(self._now), _KEEP_DENORMALS, _DENORMALS)

    def __exit__(self, *_: object) -> None:
        self._control(ctypes.byref(self._now), self._before.value & _DENORMALS, _DENORMALS)


def default_mode() -> _PosixMode | _WindowsMode:
    """A context, of one thread at a time, in which it rounds to nearest and keeps small numbers, as C does by default.

    Raises:
        OSError, AttributeError: the functions of the C library that do so are not here.
    """
    return _WindowsMode() if sys.platform == "win32" else _PosixMode()
