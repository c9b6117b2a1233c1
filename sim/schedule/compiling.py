"""Functions compiled by numba where it is there; without it they run as plain Python, slowly."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar, cast

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def compiled(function: Kernel) -> Kernel:
    """The function compiled by numba at its first call, or itself where numba cannot be imported.

    The machine code is kept for the next process where numba finds a folder it may write to.
    """
    try:
        from numba import njit
    except Exception:  # An old one raises of itself beside a newer numpy.
        return function
    try:
        return cast(Kernel, njit(cache=True)(function))
    except RuntimeError:  # numba's "cannot cache function": nowhere to write
        return cast(Kernel, njit(function))


def compiled_with(function: Kernel, *called: Callable[..., Any]) -> Kernel:
    """A plain function compiled together with the plain functions of its module that it calls.

    So that a module need not import numba for its functions to be compiled by another one. All are
    of one file, by whose date numba knows whether what it kept is still true.
    """
    plain = cast(FunctionType, function)
    spaces = dict(plain.__globals__)
    for each in called:
        file = cast(FunctionType, each).__code__.co_filename
        assert file == plain.__code__.co_filename, f"{each} is of another file"
        spaces[each.__name__] = compiled(each)
    copy = FunctionType(plain.__code__, spaces, plain.__name__, plain.__defaults__)
    copy.__module__, copy.__qualname__ = plain.__module__, plain.__qualname__
    return compiled(cast(Kernel, copy))
