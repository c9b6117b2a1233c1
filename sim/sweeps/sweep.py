"""A sweep: every point of a space simulated once, its record appended as soon as it is there."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Collection, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scenarios.base import Base
from sim.cost.profile import Profile
from sim.engine.choice import Engine
from sim.sweeps.records import (
    Figures,
    Head,
    Seen,
    key_of,
    profile_digest,
    refused_key,
    seen,
    set_text,
    sweep_id,
)
from sim.sweeps.results import ResultsFile
from sim.sweeps.setting import Setting
from sim.sweeps.space import Space, SweepError, field_of
from sim.sweeps.work import Chunk, Outcomes, Task, Workers

CHUNK_S = 0.25
"""Work worth a message to a worker and back."""
MAX_CHUNK = 256
# What a file holds, not only what is written, decides of these.
_FROM_FILES = ("plan", "plan.schedule_file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A part of a sweep's points: those with index mod `count` = `number` mod `count`."""

    number: int = 0
    count: int = 1

    def indices(self, num_points: int) -> range:
        """The points of the part."""
        return range(self.number % self.count, num_points, self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a file of results holds of a sweep: the last record of each key."""

    by_key: dict[str, Seen] = field(default_factory=dict)
    by_set: dict[str, str] = field(default_factory=dict)
    """The key of each setting, by its text."""

    def lacks(self, found: Seen) -> bool:
        """Whether what was found of a point says more than the file does."""
        old = self.by_key.get(found.key)
        return old is None or (old.status == "failed" and old != found)

    def add(self, place: str, record: Mapping[str, Any], sweep: str) -> None:
        """Take a record in; raises SweepError where it is none of this sweep."""
        try:
            theirs, found = str(record["sweep"]), seen(record)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise SweepError(
                f"{place}: is no result of a sweep: choose another file with -o"
            ) from None
        if theirs != sweep:
            raise SweepError(
                f"{place}: is of another sweep ({record['scenario']}): a file holds results of one "
                "scenario with the same --set, --profile, --figures and version of results, "
                "whatever is varied of it; choose another file with -o"
            )
        self.by_key[found.key] = found
        self.by_set[set_text(found.set)] = found.key


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a sweep has just passed.

    appended: points whose records are in the file now; the others were there before: skipped; or
    are the same scenario as an earlier point of the sweep: so many `same`.
    """

    appended: tuple[Seen, ...]
    skipped: tuple[Seen, ...]
    same: int


def read_known(file: ResultsFile, sweep: str) -> Known:
    """Read the file's results; of a point tried again the last counts.

    Raises SweepError where it holds anything else than results of this sweep.
    """
    known = Known()
    for place, record in file.records():
        known.add(place, record, sweep)
    return known


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A scenario, the points to simulate of it, and the profile to do it with."""

    base: Base
    space: Space
    profile: Profile | None = None
    shard: Shard = field(default_factory=Shard)
    engine: Engine = "auto"
    figures: Figures = "all"

    @property
    def id(self) -> str:
        """See `records.sweep_id`."""
        return sweep_id(self.base.digest, profile_digest(self.profile), self.figures)

    @property
    def num_points(self) -> int:
        """Points of this part of the sweep."""
        return len(self.shard.indices(len(self.space)))

    def run(
        self, file: ResultsFile, known: Known, workers: Workers, *, retry_failed: bool = False
    ) -> Generator[Step, None, None]:
        """Simulate what is not known yet, and append each record as it comes.

        Closed early it leaves nothing running, and what was yielded is kept.
        """
        profile = None if self.profile is None else replace(self.profile, raw=())
        sweep = self.id
        tasks = _Tasks(sweep=self, known=known, retry_failed=retry_failed)
        setting = Setting(
            profile=profile,
            profile_sha256=profile_digest(self.profile),
            engine=self.engine,
            figures=self.figures,
        )
        finished = workers(setting, tasks.chunks())
        theirs: set[str] = set()
        with contextlib.closing(finished):
            for outcomes in finished:
                tasks.set_pace(outcomes)
                found = {o.head.key: seen(json.loads(o.line)) for o in outcomes}
                new = {
                    outcome.head.key: outcome.line
                    for outcome in outcomes
                    if known.lacks(found[outcome.head.key])
                }
                for place, record in file.append(new):
                    known.add(place, record, sweep)
                    theirs.add(record["key"])
                yield tasks.step(found, theirs)
        yield tasks.step({}, ())


class _Tasks:
    """A sweep's points made into tasks as workers ask for them, from whichever thread."""

    def __init__(self, *, sweep: Sweep, known: Known, retry_failed: bool) -> None:
        self._sweep = sweep
        self._known = known
        self._retry_failed = retry_failed
        self._pace_s: float | None = None
        self._skipped: deque[Seen | None] = deque()

    def set_pace(self, outcomes: Outcomes) -> None:
        """Learn how long points take, so that a chunk is worth sending; points that break a rule
        take none, and tell nothing of the others."""
        times = [outcome.seconds for outcome in outcomes if outcome.seconds > 0]
        if times:
            mean = sum(times) / len(times)
            self._pace_s = mean if self._pace_s is None else (self._pace_s + mean) / 2

    def step(self, found: Mapping[str, Seen], theirs: Collection[str]) -> Step:
        """What was passed since the last step: the points found, but for those that another process
        had found before, and those that there was nothing to do for."""
        passed = [self._skipped.popleft() for _ in range(len(self._skipped))]
        skipped = [one for one in passed if one is not None]
        return Step(
            appended=tuple(one for key, one in found.items() if key not in theirs),
            skipped=(*skipped, *(one for key, one in found.items() if key in theirs)),
            same=len(passed) - len(skipped),
        )

    def chunks(self) -> Iterator[Chunk]:
        """The tasks, some at a time."""
        waiting: list[Task] = []
        size, work = 1, 0
        for task in self._tasks():
            waiting.append(task)
            work += task.scenario is not None
            if work >= size or len(waiting) >= MAX_CHUNK:
                yield tuple(waiting)
                waiting, work, size = [], 0, self._next_size(size)
        if waiting:
            yield tuple(waiting)

    def _next_size(self, size: int) -> int:
        """Points of the next chunk: no more than twice as many, as the first may be the fastest."""
        if self._pace_s is None:
            return 1
        return max(1, min(2 * size, MAX_CHUNK, int(CHUNK_S / max(self._pace_s, 1e-6))))

    def _tasks(self) -> Iterator[Task]:
        sweep, known = self._sweep, self._known
        sweep_id, profile_sha256 = sweep.id, profile_digest(sweep.profile)
        trusted = not any(field in _FROM_FILES for field in sweep.space.fields)
        taken: set[str] = set()
        for index in sweep.shard.indices(len(sweep.space)):
            overrides = sweep.space.overrides(index)
            set_ = {field_of(text): sweep.base.value(text) for text in overrides}
            key = known.by_set.get(set_text(set_)) if trusted else None
            scenario, refused = None, None
            if not self._is_over(key):
                try:
                    scenario = sweep.base.at(overrides)
                    key = key_of(scenario, profile_sha256, sweep.figures)
                except Exception as error:
                    key = refused_key(sweep_id, set_)
                    refused = type(error).__name__, str(error)
            assert key is not None, "known, made or refused"
            if key in taken:
                self._skipped.append(None)
                continue
            taken.add(key)
            if self._is_over(key):
                self._skipped.append(known.by_key[key])
                continue
            head = Head(
                key=key,
                sweep=sweep_id,
                index=index,
                points=len(sweep.space),
                set=set_,
                scenario=sweep.base.name,
                digest=None if scenario is None else scenario.digest,
            )
            yield Task(head=head, scenario=scenario, refused=refused)

    def _is_over(self, key: str | None) -> bool:
        """Whether a point needs nothing more."""
        old = self._known.by_key.get(key) if key is not None else None
        return old is not None and (old.status == "done" or not self._retry_failed)
