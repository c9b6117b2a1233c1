"""Quantities: read with their units, refused with a value that would work, written exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios import units

RATES = st.floats(min_value=1e-300, max_value=1e300, allow_nan=False)
AMOUNTS = st.integers(min_value=0, max_value=2**63 - 1)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.parse_bytes, "80 GiB", 80 * 2**30),
        (units.parse_bytes, "640MB", 640_000_000),
        (units.parse_bytes, "1_000 B", 1000),
        (units.parse_bytes, 42, 42),
        (units.parse_bytes_per_s, "200 Gbit/s", 25e9),
        (units.parse_bytes_per_s, "25 Gb/s", 3.125e9),
        (units.parse_bytes_per_s, "2039 GB/s", 2.039e12),
        (units.parse_flops_per_s, "312 TFLOP/s", 312e12),
        (units.parse_duration_ns, "18.522 ms", 18_522_000),
        (units.parse_duration_ns, "5 us", 5000),
        (units.parse_duration_ns, "5 µs", 5000),
        (units.parse_duration_ns, "2 d", 2 * 86400 * 10**9),
        (units.parse_dollars_per_hour, "$2.10/h", 2.1),
        (units.parse_count, 300e9, 300 * 10**9),
        (units.parse_count, "300 G", 300 * 10**9),
    ],
)
def test_reads_quantities(parse: Callable[[Any], Any], text: Any, value: Any) -> None:
    assert parse(text) == value
    assert type(parse(text)) is type(value)


@pytest.mark.parametrize(
    ("parse", "text", "example"),
    [
        (units.parse_bytes, "80 Gib", "80 GiB"),
        (units.parse_bytes, 80.0, "80 GiB"),
        (units.parse_bytes, True, "80 GiB"),
        (units.parse_bytes, "-1 GiB", "0 B"),
        (units.parse_bytes, "1e999 B", "80 GiB"),
        (units.parse_bytes, "1e999999999 B", "80 GiB"),
        (units.parse_bytes, "9" * 5000 + " B", "80 GiB"),
        (units.parse_bytes, "٣ GiB", "80 GiB"),
        (units.parse_bytes_per_s, "0 GB/s", "200 Gbit/s"),
        (units.parse_bytes_per_s, "1e400 GB/s", "200 Gbit/s"),
        (units.parse_bytes_per_s, 10**400, "200 Gbit/s"),
        (units.parse_bytes_per_s, float("nan"), "200 Gbit/s"),
        (units.parse_bytes_per_s, "25 GB", "200 Gbit/s"),
        (units.parse_flops_per_s, "312 TFLOPS", "312 TFLOP/s"),
        (units.parse_duration_ns, 18.5, "18.522 ms"),
        (units.parse_duration_ns, "18.5", "18.522 ms"),
        (units.parse_duration_ns, "-2 us", "0 ns"),
        (units.parse_dollars_per_hour, "2.10", "$2.10/h"),
        (units.parse_count, "many", "300e9"),
        (units.parse_count, 0.5, "300e9"),
        (units.parse_count, float("inf"), "300e9"),
    ],
)
def test_refuses_with_a_value_that_works(
    parse: Callable[[Any], Any], text: Any, example: str
) -> None:
    with pytest.raises(units.UnitError) as caught:
        parse(text)
    assert f"`{example}`" in str(caught.value)
    parse(example)


@pytest.mark.parametrize(
    ("text", "meant"), [("600B", "600e9"), ("1.4 Trillion", "1.4e12"), ("300 billion", "300e9")]
)
def test_counts_in_words_are_told_as_numbers(text: str, meant: str) -> None:
    with pytest.raises(units.UnitError, match=f"did you mean `{meant}`"):
        units.parse_count(text)
    assert units.parse_count(meant) == float(meant)


def test_a_unit_of_time_that_is_none_is_told_which_are() -> None:
    with pytest.raises(units.UnitError, match=r"ns, us, ms, s, min, h or d\)"):
        units.parse_duration_ns("3 days")
    assert units.parse_duration_ns("3 d") == 3 * 86_400 * 10**9


@given(AMOUNTS)
def test_bytes_round_trip(amount: int) -> None:
    assert units.parse_bytes(units.exact_bytes(amount)) == amount


@given(AMOUNTS)
def test_durations_round_trip(duration_ns: int) -> None:
    assert units.parse_duration_ns(units.exact_duration_ns(duration_ns)) == duration_ns


@given(AMOUNTS)
def test_counts_round_trip(count: int) -> None:
    assert units.parse_count(units.exact_count(count)) == count


@given(RATES)
def test_rates_round_trip(rate: float) -> None:
    assert units.parse_bytes_per_s(units.exact_bytes_per_s(rate)) == rate
    assert units.parse_flops_per_s(units.exact_flops_per_s(rate)) == rate
    assert units.parse_dollars_per_hour(units.exact_dollars_per_hour(rate)) == rate


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (
        units.parse_bytes,
        units.parse_bytes_per_s,
        units.parse_flops_per_s,
        units.parse_duration_ns,
        units.parse_dollars_per_hour,
        units.parse_count,
    ):
        try:
            parse(text)
        except units.UnitError:
            continue


def test_writes_short_forms() -> None:
    assert units.exact_bytes(80 * 2**30) == "80 GiB"
    assert units.exact_bytes(640_000_000) == "640 MB"
    assert units.exact_duration_ns(18_522_000) == "18.522 ms"
    assert units.exact_bytes_per_s(25e9) == "25 GB/s"
    assert units.exact_flops_per_s(312e12) == "312 TFLOP/s"
    assert units.exact_count(300 * 10**9) == "300 G"
