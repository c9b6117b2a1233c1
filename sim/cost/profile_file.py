"""A profile as a file: YAML, or JSON by its suffix; written whole or not at all."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from scenarios.reading import read_text
from scenarios.schema import Precision
from scenarios.writing import write_whole
from sim.cost.profile import Bound, Fitted, MessageTime, Profile, Source, SourceKind
from sim.cost.shapes import Part, PartTime, Pass, Shape

FORMAT = "pipetwin profile 1"
MAX_BYTES = 64 << 20
_MESSAGES = ("post", "unpack", "transfer", "all_reduce")


class ProfileError(ValueError):
    """A file does not hold a profile; the message says where and what is wrong."""


def write_profile(profile: Profile, path: Path, *, force: bool = False) -> None:
    """Write a profile: JSON where the name ends in `.json`, else YAML.

    Raises FileExistsError where the file exists and `force` is not given.
    """
    data = to_data(profile)
    if path.suffix == ".json":
        text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    else:
        stream = io.StringIO()
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = None
        yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
        yaml.width = 100
        yaml.dump(data, stream)
        text = stream.getvalue()
    write_whole(path, text, force=force)


def read_profile(path: Path) -> Profile:
    """Read what `write_profile` wrote.

    Raises ProfileError where the file cannot be read or does not hold a profile.
    """
    text = read_text(path, ProfileError, max_bytes=MAX_BYTES)
    try:
        if path.suffix == ".json":
            data = json.loads(text)
        else:
            data = YAML(typ="safe", pure=True).load(text)
    except (ValueError, YAMLError, RecursionError) as error:
        what = " ".join(str(error).split())
        raise ProfileError(f"{path}: is not {path.suffix[1:] or 'YAML'}: {what}") from None
    try:
        return from_data(data)
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from None


def to_data(profile: Profile) -> dict[str, object]:
    """The profile as plain values."""
    return {
        "format": FORMAT,
        "device": profile.device,
        "provenance": profile.provenance,
        "created": profile.created,
        "software": dict(profile.software),
        "host": profile.host,
        "times": [
            {
                "shape": shape._asdict(),
                "parts": [
                    {
                        "part": part,
                        "pass": name,
                        "median_ns": time.median_ns,
                        "quartiles_ns": list(time.quartiles_ns),
                        "samples": time.samples,
                    }
                    for (part, name), time in parts.items()
                ],
            }
            for shape, parts in profile.times.items()
        ],
        **{
            name: None
            if (time := getattr(profile, name)) is None
            else {
                "fixed_ns": time.fixed_ns,
                "ns_per_byte": time.ns_per_byte,
                "error": time.error,
            }
            for name in _MESSAGES
        },
        "ratios": list(profile.ratios),
        "efficiency": {
            name: {
                "value": f.value,
                "interval": list(f.interval) if f.interval else None,
                **({"at_bound": f.at_bound} if f.at_bound else {}),
            }
            for name, f in profile.efficiency.items()
        },
        "sources": [
            {"kind": s.kind, "name": s.name, "digest": s.digest, "points": list(s.points)}
            for s in profile.sources
        ],
        "raw": [_plain(entry) for entry in profile.raw],
    }


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def from_data(data: object) -> Profile:
    """The profile from plain values.

    Raises ProfileError, naming the field that is missing or wrong.
    """
    top = _Fields(data, "")
    if top.text("format") != FORMAT:
        raise ProfileError(f"format: {top.text('format')!r}; this version reads {FORMAT!r}")
    times: dict[Shape, dict[tuple[Part, Pass], PartTime]] = {}
    for entry in top.fields("times"):
        found = times.setdefault(_shape(entry.inner("shape")), {})
        for part in entry.fields("parts"):
            key = (part.choice("part", get_args(Part)), part.choice("pass", get_args(Pass)))
            low, high = part.numbers("quartiles_ns", 2)
            found[key] = PartTime(  # type: ignore[index]
                median_ns=part.number("median_ns"),
                quartiles_ns=(low, high),
                samples=part.whole("samples"),
            )
    fitted: dict[str, Fitted] = {}
    efficiency = top.inner("efficiency")
    for name in efficiency.names():
        inner = efficiency.inner(name)
        ends = None if inner.value("interval") is None else inner.numbers("interval", 2)
        bound = inner.choice("at_bound", get_args(Bound)) if "at_bound" in inner.names() else None
        fitted[name] = Fitted(
            value=inner.number("value"),
            interval=(ends[0], ends[1]) if ends else None,
            at_bound=bound,  # type: ignore[arg-type]
        )
    messages: dict[str, MessageTime | None] = {}
    for name in _MESSAGES:
        if top.value(name) is None:
            messages[name] = None
            continue
        line = top.inner(name)
        messages[name] = MessageTime(
            fixed_ns=line.number("fixed_ns"),
            ns_per_byte=line.number("ns_per_byte"),
            error=line.number("error"),
        )
    software = top.inner("software")
    return Profile(
        device=top.text("device"),
        provenance=top.text("provenance"),
        created=top.text("created"),
        software={name: software.text(name) for name in software.names()},
        host=top.text("host"),
        times=times,
        post=messages["post"],
        unpack=messages["unpack"],
        transfer=messages["transfer"],
        all_reduce=messages["all_reduce"],
        ratios=tuple(top.numbers("ratios")),
        efficiency=fitted,
        sources=tuple(
            Source(
                kind=source.choice("kind", get_args(SourceKind)),  # type: ignore[arg-type]
                name=source.text("name"),
                digest=source.text("digest"),
                points=tuple(source.texts("points")),
            )
            for source in (top.fields("sources") if "sources" in top.names() else ())
        ),
        raw=tuple(entry.content for entry in top.fields("raw")),
    )


def _shape(fields: _Fields) -> Shape:
    return Shape(
        family=fields.text("family"),
        hidden=fields.whole("hidden"),
        heads=fields.whole("heads"),
        ffn=fields.whole("ffn"),
        vocabulary=fields.whole("vocabulary"),
        micro_batch=fields.whole("micro_batch"),
        tokens=fields.whole("tokens"),
        context=fields.whole("context"),
        tensor=fields.whole("tensor"),
        precision=fields.choice("precision", get_args(Precision)),  # type: ignore[arg-type]
        recomputation=fields.text("recomputation"),
    )


class _Fields:
    """A mapping of the file with its place in it, whose fields are checked as they are read."""

    def __init__(self, content: object, place: str) -> None:
        self.place = place
        if not isinstance(content, dict) or not all(isinstance(k, str) for k in content):
            raise ProfileError(f"{place or 'file'}: is not a mapping of names to values")
        self.content: dict[str, Any] = content

    def _where(self, name: str) -> str:
        return f"{self.place}.{name}" if self.place else name

    def names(self) -> list[str]:
        return list(self.content)

    def value(self, name: str) -> Any:
        if name not in self.content:
            raise ProfileError(f"{self._where(name)}: is missing")
        return self.content[name]

    def inner(self, name: str) -> _Fields:
        return _Fields(self.value(name), self._where(name))

    def fields(self, name: str) -> list[_Fields]:
        entries = self._list(name)
        return [_Fields(e, f"{self._where(name)}[{i}]") for i, e in enumerate(entries)]

    def _list(self, name: str) -> list[Any]:
        found = self.value(name)
        if not isinstance(found, list):
            raise ProfileError(f"{self._where(name)}: is not a list")
        return found

    def text(self, name: str) -> str:
        found = self.value(name)
        if not isinstance(found, str):
            raise ProfileError(f"{self._where(name)}: {found!r} is not text")
        return found

    def texts(self, name: str) -> list[str]:
        found = self._list(name)
        for i, entry in enumerate(found):
            if not isinstance(entry, str):
                raise ProfileError(f"{self._where(name)}[{i}]: {entry!r} is not text")
        return found

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        found = self.text(name)
        if found not in choices:
            raise ProfileError(f"{self._where(name)}: {found!r} is none of {', '.join(choices)}")
        return found

    def number(self, name: str) -> float:
        return self._number(self.value(name), self._where(name))

    def whole(self, name: str) -> int:
        found = self.value(name)
        if not isinstance(found, int) or isinstance(found, bool) or found < 0:
            raise ProfileError(f"{self._where(name)}: {found!r} is not a whole number from 0 up")
        return found

    def numbers(self, name: str, count: int | None = None) -> list[float]:
        found = self._list(name)
        if count is not None and len(found) != count:
            raise ProfileError(f"{self._where(name)}: has {len(found)} numbers instead of {count}")
        return [self._number(x, f"{self._where(name)}[{i}]") for i, x in enumerate(found)]

    @staticmethod
    def _number(found: object, where: str) -> float:
        if isinstance(found, bool) or not isinstance(found, (int, float)):
            raise ProfileError(f"{where}: {found!r} is not a number")
        if not 0 <= found < float("inf"):
            raise ProfileError(f"{where}: {found!r} is not a finite number from 0 up")
        return float(found)
