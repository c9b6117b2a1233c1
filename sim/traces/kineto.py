"""One rank's trace of torch.profiler (Kineto's Chrome JSON), reduced to what a measurement needs.

Times are nanoseconds since 1970: `ts` is microseconds from `baseTimeNanoseconds`. Of annotations,
`user_annotation` is the host's time, and `gpu_user_annotation`, where there is one, that of the
kernels which were launched in it, on their stream.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.schedule.actions import COMPUTE, RECEIVES, SENDS, NotationError
from sim.traces.names import OWN, STEP, Named, is_carrier, is_receive, read_name
from sim.traces.stream import TraceError, TraceFile, nanoseconds

_WORK = frozenset({"cpu_op", "kernel", "gpu_memcpy", "gpu_memset"})
_MAX_TOLD = 3
_LONG_NAME = 60
_LONGEST_NS = 1 << 61
"""73 years: three of them still add up in 64 bits."""
_DIGITS = 10
_NS = NDArray[np.int64]
Track = tuple[object, object]


class Annotation(NamedTuple):
    """One named range: [start_ns, end_ns), on a track (process and thread, or device and stream).

    external_id: what the host's range and the device's of the same annotation share.
    host_ns: when the host began it; a device is behind, maybe into the profiler's next step.
    """

    named: Named
    start_ns: int
    end_ns: int
    track: Track
    external_id: object
    host_ns: int


@dataclass(frozen=True, kw_only=True)
class RankTrace:
    """What one rank's trace holds.

    rank: the world rank by the trace itself; None where it does not tell.
    steps: the profiler's steps by number, as (start_ns, end_ns).
    annotations: by start. on_device: whether passes are the device's time.
    work: on the tracks of the annotations, when operators (or kernels) ran, as two arrays of starts
    and ends, ascending and apart from each other.
    arrivals: when receives that the carrier has annotated had ended, ascending.
    """

    path: Path
    rank: int | None
    host: str | None
    steps: Mapping[int, tuple[int, int]]
    annotations: tuple[Annotation, ...]
    on_device: bool
    work: Mapping[Track, tuple[_NS, _NS]]
    arrivals: _NS
    notes: tuple[str, ...] = ()


def read_kineto(path: Path) -> RankTrace:
    """Read one rank's trace.

    Raises TraceError where the file is no trace, is cut short, or holds no annotation of passes.
    """
    file = TraceFile(path)
    found = _Found()
    for event in file.events():
        if event.get("ph") == "X":
            found.take(event, path)
    if found.wrong:
        names = ", ".join(name[:_LONG_NAME] for name in sorted(found.wrong)[:_MAX_TOLD])
        raise TraceError(
            f"{path}: {len(found.wrong)} names are no actions, as {names}: write stage, kind and "
            f"microbatch, as `{OWN}2F0` for the forward pass of microbatch 0 on stage 2"
        )
    base_ns = file.header.get("baseTimeNanoseconds", 0)
    distributed = file.header.get("distributedInfo")
    rank = distributed.get("rank") if isinstance(distributed, dict) else None
    host = file.header.get("host_name")
    return found.settled(
        path,
        base_ns=_base(base_ns, path),
        rank=rank if isinstance(rank, int) else None,
        host=str(host) if host else None,
    )


def _base(base_ns: object, path: Path) -> int:
    digits = str(base_ns)
    if not digits.isdecimal():
        return 0
    if len(digits) > len(str(_LONGEST_NS)) or int(digits) > _LONGEST_NS:
        raise TraceError(f"{path}: `baseTimeNanoseconds` {digits[:_LONG_NAME]} is no time")
    return int(digits)


def _intervals() -> dict[Track, tuple[array[int], array[int]]]:
    return defaultdict(lambda: (array("q"), array("q")))


@dataclass
class _Found:
    host: list[Annotation] = field(default_factory=list)
    device: list[Annotation] = field(default_factory=list)
    steps: dict[int, tuple[int, int]] = field(default_factory=dict)
    work: dict[Track, tuple[array[int], array[int]]] = field(default_factory=_intervals)
    arrivals: array[int] = field(default_factory=lambda: array("q"))
    wrong: set[str] = field(default_factory=set)
    other: Counter[str] = field(default_factory=Counter)

    def take(self, event: Mapping[str, Any], path: Path) -> None:
        category = str(event.get("cat"))
        if category in _WORK:
            if not (category == "cpu_op" and is_carrier(str(event.get("name")))):
                start, end = _range(event, path)
                starts, ends = self.work[_track(event)]
                starts.append(start)
                ends.append(end)
        elif category == "user_annotation" or category == "gpu_user_annotation":
            self._annotation(event, path, on_host=category == "user_annotation")

    def _annotation(self, event: Mapping[str, Any], path: Path, *, on_host: bool) -> None:
        name = str(event.get("name"))
        if name.startswith(STEP):
            number = name[len(STEP) :]
            if on_host and number.isdecimal() and len(number) < _DIGITS:
                self.steps[int(number)] = _range(event, path)
            return
        if is_receive(name):
            if on_host:
                self.arrivals.append(_range(event, path)[1])
            return
        try:
            named = read_name(name)
        except NotationError:
            self.wrong.add(name)
            return
        if named is None:
            self.other[name.partition(":")[0]] += 1
            return
        args = event.get("args")
        external = args.get("External id") if isinstance(args, dict) else None
        kept = self.host if on_host else self.device
        start, end = _range(event, path)
        if not isinstance(external, int | str):
            external = None
        kept.append(Annotation(named, start, end, _track(event), external, start))

    def settled(self, path: Path, *, base_ns: int, rank: int | None, host: str | None) -> RankTrace:
        if not any(_is_pass(a) for a in self.host):
            raise self._nothing(path)
        chosen, on_device, notes = self._device_times()
        tracks = {a.track for a in chosen}
        return RankTrace(
            path=path,
            rank=rank,
            host=host,
            steps={n: (a + base_ns, b + base_ns) for n, (a, b) in sorted(self.steps.items())},
            annotations=tuple(
                a._replace(
                    start_ns=a.start_ns + base_ns,
                    end_ns=a.end_ns + base_ns,
                    host_ns=a.host_ns + base_ns,
                )
                for a in sorted(chosen, key=lambda a: (a.host_ns, -a.end_ns))
            ),
            on_device=on_device,
            work={t: _merged(*self.work[t], base_ns) for t in tracks if t in self.work},
            arrivals=np.sort(np.frombuffer(self.arrivals, dtype=np.int64)) + base_ns
            if self.arrivals and not on_device
            else np.empty(0, dtype=np.int64),
            notes=notes,
        )

    def _device_times(self) -> tuple[list[Annotation], bool, tuple[str, ...]]:
        """The annotations to go by: the device's where it has every pass, on the stream that has
        most of their time; else the host's."""
        passes = [a for a in self.host if _is_pass(a)]
        if not self.device or not passes:
            note = (
                "messages went by NCCL, and the trace has no device times: times are the host's, "
                "which runs ahead of the device; profile with ProfilerActivity.CUDA too"
            )
            return self.host, False, (note,) if self.other["nccl"] else ()
        time_on: Counter[Track] = Counter()
        for a in self.device:
            if _is_pass(a):
                time_on[a.track] += a.end_ns - a.start_ns
        if not time_on:
            return self.host, False, ("passes launched no kernels: times are the host's",)
        stream = time_on.most_common(1)[0][0]
        device = _launched(self.host, [a for a in self.device if a.track == stream])
        missing = (Counter(a.named for a in passes) - Counter(a.named for a in device)).elements()
        first = next(missing, None)
        if first is not None:
            note = (
                f"{1 + sum(1 for _ in missing)} of {len(passes)} passes have no device time (as "
                f"{first.action}): all times are the host's, which runs ahead of the device"
            )
            return self.host, False, (note,)
        return device, True, ()

    def _nothing(self, path: Path) -> TraceError:
        told = ", ".join(f"{name!r}" for name, _ in self.other.most_common(_MAX_TOLD))
        has = f"; its annotations are {told}" if told else "; it has no annotations at all"
        return TraceError(
            f"{path}: no annotation is a pass{has}. Put "
            f'`with torch.profiler.record_function("{OWN}2F0"):` around each pass (2F0: stage 2, '
            "forward, microbatch 0); docs/traces.md shows how, also for torch's Schedule1F1B, "
            "which names nothing itself"
        )


def _is_pass(annotation: Annotation) -> bool:
    action = annotation.named.action
    return action is not None and action.kind in COMPUTE


def _launched(host: Sequence[Annotation], device: Sequence[Annotation]) -> list[Annotation]:
    """The device's ranges of passes and steps, each with when its host's began: the one of the same
    number, else the n-th of the same name for the n-th."""
    by_number = {(a.named, a.external_id): a.start_ns for a in host if a.external_id is not None}
    by_name: dict[Named, list[int]] = defaultdict(list)
    for a in host:
        by_name[a.named].append(a.start_ns)
    seen: Counter[Named] = Counter()
    found = []
    for a in sorted(device, key=lambda a: a.start_ns):
        # Posting a message is the host's doing.
        if a.named.action is None or a.named.action.kind in SENDS | RECEIVES:
            continue
        starts = by_name[a.named]
        began = by_number.get((a.named, a.external_id))
        if began is None and seen[a.named] < len(starts):
            began = starts[seen[a.named]]
        seen[a.named] += 1
        if began is not None:
            found.append(a._replace(host_ns=began))
    return found


def _track(event: Mapping[str, Any]) -> Track:
    return str(event.get("pid")), str(event.get("tid"))


def _range(event: Mapping[str, Any], path: Path) -> tuple[int, int]:
    try:
        start = nanoseconds(event["ts"])
        long = max(0, nanoseconds(event.get("dur", 0)))
        if max(abs(start), long) > _LONGEST_NS:
            raise ValueError("no clock shows such times")
        return start, start + long
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TraceError(
            f"{path}: event {event.get('name')!r} has no time: ts {event.get('ts')!r}, dur "
            f"{event.get('dur')!r}"
        ) from error


def _merged(starts: Sequence[int], ends: Sequence[int], base_ns: int) -> tuple[_NS, _NS]:
    """Ranges that may lie in each other as ranges that lie apart."""
    first = np.asarray(starts, dtype=np.int64)
    last = np.asarray(ends, dtype=np.int64)
    order = np.argsort(first, kind="stable")
    first, last = first[order], np.maximum.accumulate(last[order])
    begins = np.concatenate(([True], first[1:] > last[:-1]))
    closes = np.concatenate((begins[1:], [True]))
    return first[begins] + base_ns, last[closes] + base_ns


def iterations(trace: RankTrace) -> Iterator[tuple[int, tuple[Annotation, ...]]]:
    """A trace's annotations by iteration, with its number: the profiler's step, else counted, where
    a new one begins with the first pass that the one before had already."""
    steps = [
        (number, tuple(a for a in trace.annotations if start <= a.host_ns < end))
        for number, (start, end) in trace.steps.items()
    ]
    if any(_is_pass(a) for _, annotations in steps for a in annotations):
        yield from steps
        return
    number = 0
    current: list[Annotation] = []
    # Until when each pass's annotation lasts: another one of it within is no repetition.
    seen: dict[Named, int] = {}
    for a in trace.annotations:
        if _is_pass(a):
            key = a.named._replace(source="torch")
            if key in seen and a.host_ns >= seen[key]:
                yield number, tuple(current)
                number, current, seen = number + 1, [], {}
            seen.setdefault(key, a.end_ns)
        current.append(a)
    yield number, tuple(current)
