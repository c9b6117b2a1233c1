"""Fitted parameters in words: amounts with units, intervals, what a parameter is."""

from __future__ import annotations

import re
from typing import Any, get_args, get_type_hints

from scenarios.schema import Efficiency, Link
from scenarios.units import format_duration_ns


def interval_text(name: str, ends: tuple[float, float]) -> str:
    """An interval with its unit once, where both ends have the same: `[8.0, 10.4 us]`."""
    low, high = (amount_of(name, end) for end in ends)
    number, space, unit = low.partition(" ")
    return f"[{number if space and high.endswith(f' {unit}') else low}, {high}]"


def amount_of(name: str, amount: float) -> str:
    """A fitted parameter's amount with its unit: `9.1 us`, `88.2 %`, `245 elements`, `300 GB/s`."""
    kind = _hint_of(name)
    if name.endswith(".bandwidth"):
        return f"{amount / 1e9:.4g} GB/s"
    if get_args(kind)[:1] == (int,):
        return format_duration_ns(amount)
    counted = name.endswith(("_dimension", "_rows"))
    return f"{amount:.4g} elements" if counted else f"{amount:.1%}"


def meaning_of(name: str) -> str:
    """What a fitted parameter is, in the words of the schema."""
    link, dot, field = name.partition(".")
    holder: Any = Link if dot else Efficiency
    words = " ".join(str(holder.__pydantic_fields__[field or name].description).split())
    first = re.split(r"[.,;(]", words)[0]
    return f"{first} ({link.replace('_node', ' node')})" if dot else first


def _hint_of(name: str) -> Any:
    holder: Any = Link if "." in name else Efficiency
    return get_type_hints(holder, include_extras=True)[name.rpartition(".")[2]]
