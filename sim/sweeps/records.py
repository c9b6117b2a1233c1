"""What a sweep keeps of a point: one JSON object, keyed by the scenario's hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scenarios.schema import Scenario
from sim.cost.profile import Profile
from sim.cost.profile_file import to_data

RESULT_FORMAT = "pipetwin sweep 1"
"""Counted up where the same scenario gives other results, so that old and new are not mixed."""
START = b'{"key":"'
"""What every record begins with."""

Status = Literal["done", "failed"]
Figures = Literal["all", "time"]
"""What a result holds: all that `simulate --json` prints, or time, throughput and peak memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What is known of a point before it is simulated.

    key: see `key_of`. sweep: see `sweep_id`. index: of the point in the whole sweep, which has
    `points` of them. set: what the point sets, by field, as plain values. digest: the scenario's;
    None where it breaks a rule.
    """

    key: str
    sweep: str
    index: int
    points: int
    set: Mapping[str, Any]
    scenario: str
    digest: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the end of a sweep tells of a point.

    seconds: the iteration's, or the whole run's of a scenario with epochs; None where it failed.
    """

    key: str
    index: int
    set: Mapping[str, Any]
    status: Status
    seconds: float | None
    fits: bool | None
    sequences_per_s: float | None
    mfu: float | None
    peak_bytes: int | None
    error: str | None


def sweep_id(base_digest: str, profile_sha256: str | None, figures: Figures = "all") -> str:
    """Of everything that a sweep's points have in common: the scenario with its overrides, the
    profile, and what results are like (hex, 16 digits). Results of two ids are never in one file.
    """
    return _hash([RESULT_FORMAT, figures, base_digest, profile_sha256])[:16]


def profile_digest(profile: Profile | None) -> str | None:
    """SHA-256 (hex) of a profile's content."""
    return None if profile is None else _hash(to_data(profile))


def key_of(scenario: Scenario, profile_sha256: str | None, figures: Figures = "all") -> str:
    """SHA-256 (hex) of all that a result depends on: the scenario, the profile, the format."""
    return _hash([RESULT_FORMAT, figures, scenario.digest, profile_sha256])


def refused_key(sweep: str, set_: Mapping[str, Any]) -> str:
    """The key of a point that breaks a rule and so has no scenario: by what it sets."""
    return _hash([sweep, set_text(set_)])


def set_text(set_: Mapping[str, Any]) -> str:
    """What a point sets as one text, whatever the order of its fields."""
    return json.dumps(set_, sort_keys=True, separators=(",", ":"))


def done_line(head: Head, result: Mapping[str, Any], seconds: float) -> str:
    """The record of a point that was simulated.

    Raises ValueError for a number that JSON has not (NaN, infinite).
    """
    return _line(head, "done", result, None, seconds)


def failed_line(head: Head, kind: str, message: str, seconds: float = 0.0) -> str:
    """The record of a point that cannot be simulated, and why; what is no text of it is escaped, so
    that it can be shown."""
    message = message.encode("utf-8", "backslashreplace").decode()
    return _line(head, "failed", None, {"type": kind, "message": message}, seconds)


def seen(record: Mapping[str, Any]) -> Seen:
    """What a record says, as far as a sweep's end tells it.

    Raises KeyError, TypeError, ValueError where it is no record of a sweep.
    """
    result, error = record["result"], record["error"]
    status: Status = record["status"]
    if status not in ("done", "failed") or (status == "done") != isinstance(result, dict):
        raise ValueError("neither done nor failed")
    found = result if status == "done" else {}
    peaks = [rank.get("peak_memory_bytes") for rank in found.get("ranks", ())]
    known = [peak for peak in [*peaks, found.get("peak_memory_bytes")] if peak is not None]
    return Seen(
        key=str(record["key"]),
        index=int(record["index"]),
        set=dict(record["set"]),
        status=status,
        seconds=found.get("iteration_s", found.get("total_s")),
        fits=found.get("fits"),
        sequences_per_s=found.get("sequences_per_s", found.get("samples_per_s")),
        mfu=found.get("mfu"),
        peak_bytes=max(known, default=None),
        error=None if error is None else str(error["message"]),
    )


def _line(
    head: Head,
    status: Status,
    result: Mapping[str, Any] | None,
    error: Mapping[str, str] | None,
    seconds: float,
) -> str:
    record = {
        "key": head.key,
        "sweep": head.sweep,
        "index": head.index,
        "points": head.points,
        "set": head.set,
        "scenario": head.scenario,
        "digest": head.digest,
        "status": status,
        "result": result,
        "error": error,
        "seconds": round(seconds, 6),
    }
    return json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n"


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
