"""Quantities as people write them (`80 GiB`, `200 Gbit/s`), read into one base unit each.

Bases: bytes and nanoseconds are ints; bytes/s, FLOP/s, dollars/hour and dollars are floats.
Decimal prefixes are powers of 1000, binary ones (`Ki`, `Mi`, `Gi`, `Ti`) powers of 1024.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo, WithJsonSchema

_PREFIXES = {
    "": Fraction(1),
    "k": Fraction(10**3),
    "K": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
}
_PREFIX = "(?P<prefix>Ki|Mi|Gi|Ti|[kKMGTP]?)"
# ASCII digits and a bounded exponent: `1e999999999 B` would otherwise fill the memory.
_NUMBER = r"(?P<number>[+-]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)"
_MAX_LENGTH = 100
_TIME_NS = {
    "ns": Fraction(1),
    "us": Fraction(10**3),
    "µs": Fraction(10**3),
    "ms": Fraction(10**6),
    "s": Fraction(10**9),
    "min": Fraction(60 * 10**9),
    "h": Fraction(3600 * 10**9),
    "d": Fraction(86400 * 10**9),
}


IN_FILE = {"source": "file"}
"""Validation context of scenario files."""


class UnitError(ValueError):
    """A text is not a quantity of the unit asked for; the message names a value that would be."""


def _number(text: str) -> Fraction:
    return Fraction(text.replace("_", ""))


def _float(amount: Fraction | float) -> float:
    try:
        return float(amount)
    except OverflowError:
        return math.inf


def _int(value: Any, amount: Fraction, example: str) -> int:
    if amount >= 2**63:
        raise UnitError(
            f"{value!r} is too large: write at most 2**63 - 1 base units, as `{example}`"
        )
    return round(amount)


def _parse(value: Any, pattern: str, what: str, example: str) -> re.Match[str]:
    if not isinstance(value, str):
        raise UnitError(f"{value!r} has no unit: write {what} with its unit, as `{example}`")
    match = re.fullmatch(pattern, value.strip()) if len(value) <= _MAX_LENGTH else None
    if match is None:
        meant = _meant(value, pattern)
        works = f"write a number and its unit, as `{example}`"
        hint = f"did you mean `{meant}`? " if meant else ""
        raise UnitError(f"{value!r} is not {what}: {hint}{works}")
    return match


_USUAL = (
    *("ns", "us", "ms", "s", "min", "h", "d"),
    *(f"{prefix}{unit}" for prefix in _PREFIXES for unit in ("B", "bit/s", "B/s", "FLOP/s")),
)
_SPELT = {
    **dict.fromkeys(("sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("minute", "minutes", "mins"), "min"),
    **dict.fromkeys(("hour", "hours", "hr", "hrs"), "h"),
    **dict.fromkeys(("day", "days"), "d"),
    **dict.fromkeys(("msec", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("usec", "microsecond", "microseconds"), "us"),
    **dict.fromkeys(("nsec", "nanosecond", "nanoseconds"), "ns"),
}


_POWERS = {"b": 9, "bn": 9, "billion": 9, "million": 6, "trillion": 12}
_SPELT_COUNT = rf"(?P<number>[0-9]{{1,9}}(\.[0-9]{{1,9}})?)\s*(?P<power>{'|'.join(_POWERS)})"


def _meant(value: str, pattern: str) -> str | None:
    """What a quantity with another spelling of its unit means, as `100 Gbps`; None if unclear."""
    match = re.fullmatch(rf"\s*{_NUMBER}\s*(?P<unit>[A-Za-zµ/]+)\s*", value[:_MAX_LENGTH])
    if match is None or len(value) > _MAX_LENGTH:
        return None
    unit = match["unit"].replace("Bps", "B/s").lower()
    unit = _SPELT.get(unit, unit).replace("flops/s", "flop/s")
    unit = re.sub(r"(?<=[kmgtp])?flops?$", "flop/s", unit)
    rates = (re.sub(r"(?<![a-z/])?bps$", "bit/s", unit), re.sub(r"([kmgtp]i?)?b$", r"\1b/s", unit))
    usual = {known.lower(): known for known in reversed(_USUAL)}
    for spelling in (unit, f"{unit}b", *rates):
        text = f"{match['number']} {usual.get(spelling, '')}"
        if spelling in usual and re.fullmatch(pattern, text):
            return text
    return None


def parse_bytes(value: Any) -> int:
    """Read `80 GiB`, `640 MB` or a plain int as a number of bytes (int)."""
    if isinstance(value, int) and not isinstance(value, bool):
        amount = Fraction(value)
    else:
        match = _parse(value, rf"{_NUMBER}\s*{_PREFIX}B", "an amount of memory", "80 GiB")
        amount = _number(match["number"]) * _PREFIXES[match["prefix"]]
    if amount < 0:
        raise UnitError(f"{value!r} is negative: an amount of memory is at least `0 B`")
    return _int(value, amount, "80 GiB")


def parse_bytes_per_s(value: Any) -> float:
    """Read `200 Gbit/s` or `2039 GB/s` as bytes per second (float)."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        rate = _float(value)
    else:
        match = _parse(
            value, rf"{_NUMBER}\s*{_PREFIX}(?P<unit>bit|b|B)/s", "a bandwidth", "200 Gbit/s"
        )
        bits = match["unit"] != "B"
        rate = _float(_number(match["number"]) * _PREFIXES[match["prefix"]] / (8 if bits else 1))
    return _positive(value, rate, "a bandwidth", "200 Gbit/s")


def parse_flops_per_s(value: Any) -> float:
    """Read `312 TFLOP/s` as floating-point operations per second (float)."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        rate = _float(value)
    else:
        match = _parse(value, rf"{_NUMBER}\s*{_PREFIX}FLOP/s", "a compute rate", "312 TFLOP/s")
        rate = _float(_number(match["number"]) * _PREFIXES[match["prefix"]])
    return _positive(value, rate, "a compute rate", "312 TFLOP/s")


def parse_duration_ns(value: Any) -> int:
    """Read `18.522 ms`, `5 us` or a plain int of nanoseconds as nanoseconds (int)."""
    if isinstance(value, int) and not isinstance(value, bool):
        amount = Fraction(value)
    else:
        match = _parse(
            value,
            rf"{_NUMBER}\s*(?P<unit>{'|'.join(_TIME_NS)})",
            "a duration (in ns, us, ms, s, min, h or d)",
            "18.522 ms",
        )
        amount = _number(match["number"]) * _TIME_NS[match["unit"]]
    if amount < 0:
        raise UnitError(f"{value!r} is negative: a duration is at least `0 ns`")
    return _int(value, amount, "18.522 ms")


def parse_dollars_per_hour(value: Any) -> float:
    """Read `$2.10/h` as dollars per hour (float)."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        rate = _float(value)
    else:
        match = _parse(value, rf"\$\s*{_NUMBER}\s*/\s*h", "a price", "$2.10/h")
        rate = _float(_number(match["number"]))
    if not math.isfinite(rate) or rate < 0:
        raise UnitError(f"{value!r} is not a price: write one as `$2.10/h`")
    return rate


def parse_count(value: Any) -> int:
    """Read `300e9`, `300 G` or an int as a count (int)."""
    if isinstance(value, bool):
        raise UnitError(f"{value!r} is not a count: write a number, as `300e9`")
    if isinstance(value, (int, float)):
        amount = Fraction(value) if math.isfinite(value) else Fraction(-1)
    else:
        if isinstance(value, str) and (spelt := re.fullmatch(_SPELT_COUNT, value.strip().lower())):
            meant = f"{spelt['number']}e{_POWERS[spelt['power']]}"
            raise UnitError(f"{value!r} is not a count: did you mean `{meant}`?")
        match = _parse(value, rf"{_NUMBER}\s*{_PREFIX}", "a count", "300e9")
        amount = _number(match["number"]) * _PREFIXES[match["prefix"]]
    if amount < 0 or amount.denominator != 1:
        raise UnitError(f"{value!r} is not a count: write a whole number, as `300e9`")
    return _int(value, amount, "300e9")


def _positive(value: Any, rate: float, what: str, example: str) -> float:
    if not math.isfinite(rate) or rate <= 0:
        raise UnitError(f"{value!r} is not {what}: it must be above zero, as `{example}`")
    return rate


@dataclass(frozen=True, slots=True)
class Reader:
    """What reads a field's text, kept beside its type for whoever writes such texts."""

    parse: Callable[[Any], Any]


def _field(
    parse: Callable[[Any], Any], example: str, *, bare: bool = False, unit: str = ""
) -> tuple[Any, Any, Reader]:
    """The validator of a field with a unit.

    Objects made in Python, and measurements read back, hold numbers in base units; in a scenario
    file (validated with the context IN_FILE) a number without its unit is refused, unless `bare`.
    unit: the only one there is, with the number's place in braces.
    """

    def validate(value: Any, info: ValidationInfo) -> Any:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and value != 0 and not bare and info.context == IN_FILE:
            works = unit.format(value) if unit and value > 0 else example
            raise UnitError(f"{value!r} has no unit: write it with one, as `{works}`")
        return parse(value)

    schema = {"type": ["string", "number"] if bare else "string", "examples": [example]}
    return BeforeValidator(validate), WithJsonSchema(schema), Reader(parse)


Bytes = Annotated[int, *_field(parse_bytes, "80 GiB")]
BytesPerSecond = Annotated[float, *_field(parse_bytes_per_s, "200 Gbit/s")]
FlopsPerSecond = Annotated[float, *_field(parse_flops_per_s, "312 TFLOP/s")]
DurationNs = Annotated[int, *_field(parse_duration_ns, "18.522 ms")]
LongDurationNs = Annotated[int, *_field(parse_duration_ns, "1.5 h")]
DollarsPerHour = Annotated[float, *_field(parse_dollars_per_hour, "$2.10/h", unit="${}/h")]
Count = Annotated[int, *_field(parse_count, "300e9", bare=True)]


def format_bytes(amount: float) -> str:
    """Write bytes for a person: `84.1 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def format_duration_ns(duration_ns: float) -> str:
    """Write nanoseconds for a person: `18.5 ms`."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if abs(duration_ns) >= size:
            return f"{duration_ns / size:.4g} {unit}"
    return f"{duration_ns:.0f} ns"


def exact_bytes(amount: int) -> str:
    """Write bytes so that `parse_bytes` reads the same number: `80 GiB`."""
    texts = [
        f"{amount // int(_PREFIXES[prefix])} {prefix}B"
        for prefix in ("Ti", "Gi", "Mi", "Ki", "T", "G", "M", "k")
        if amount and amount % _PREFIXES[prefix] == 0
    ]
    return min([*texts, f"{amount} B"], key=len)


def exact_duration_ns(duration_ns: int) -> str:
    """Write nanoseconds so that `parse_duration_ns` reads the same number: `18.522 ms`."""
    for unit, places in (("s", 9), ("ms", 6), ("us", 3)):
        if duration_ns >= 10**places:
            whole, rest = divmod(duration_ns, 10**places)
            decimals = f"{rest:0{places}d}".rstrip("0")
            return f"{whole}.{decimals} {unit}" if decimals else f"{whole} {unit}"
    return f"{duration_ns} ns"


def exact_bytes_per_s(rate: float) -> str:
    """Write a bandwidth so that `parse_bytes_per_s` reads the same number: `25 GB/s`."""
    return _exact_rate(rate, "B/s", parse_bytes_per_s)


def exact_flops_per_s(rate: float) -> str:
    """Write a compute rate so that `parse_flops_per_s` reads the same number: `312 TFLOP/s`."""
    return _exact_rate(rate, "FLOP/s", parse_flops_per_s)


def _exact_rate(rate: float, unit: str, parse: Callable[[Any], float]) -> str:
    for prefix in ("T", "G", "M", "k"):
        scaled = rate / float(_PREFIXES[prefix])
        text = f"{_shortest(scaled)} {prefix}{unit}"
        if scaled >= 1 and parse(text) == rate:
            return text
    return f"{_shortest(rate)} {unit}"


def _shortest(number: float) -> str:
    return repr(number).removesuffix(".0")


def exact_dollars_per_hour(price: float) -> str:
    """Write a price so that `parse_dollars_per_hour` reads the same number: `$2.1/h`."""
    return f"${_shortest(price)}/h"


def exact_count(count: int) -> str:
    """Write a count so that `parse_count` reads the same number: `300 G`."""
    for prefix in ("P", "T", "G", "M"):
        if count and count % _PREFIXES[prefix] == 0:
            return f"{count // int(_PREFIXES[prefix])} {prefix}"
    return str(count)
