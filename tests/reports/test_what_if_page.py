"""What-if answers on the page: true claims, charts with their marks, figures of the JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from conftest import HOSTILE
from what_if_cases import made_up, neighbour

from reports import what_if_tables, what_if_words
from reports.answer import answer
from reports.pages import charts_what_if, sections_what_if
from reports.pages.page import render
from reports.pages.sections_cost import cost_section
from reports.words import NBSP
from scenarios.loader import Loaded, load
from sim.prediction import Prediction, predict
from sim.traffic.counting import traffic
from sim.what_if.asking import what_if
from sim.what_if.found import BreakEven, WhatIf

ORDER = (
    *("timeline", "breakdown", "free", "memory", "traffic", "alternatives", "sensitivity"),
    *("scaling", "cost", "measured", "scenario", "assumptions", "reproduce"),
)
GIB = 1 << 30


@pytest.fixture(scope="module")
def found(prediction: Prediction) -> WhatIf:
    return made_up(prediction)


@pytest.fixture(scope="module")
def asked(prediction: Prediction) -> WhatIf:
    """What is answered for real."""
    return what_if(prediction)


@pytest.fixture(scope="module")
def page(prediction: Prediction, loaded: Loaded, asked: WhatIf) -> str:
    return render(prediction, loaded=loaded, what_if=asked, traffic=traffic(prediction))


@pytest.fixture(scope="module")
def made(prediction: Prediction, loaded: Loaded, found: WhatIf) -> str:
    return render(prediction, loaded=loaded, what_if=found)


def embedded(page: str) -> Any:
    match = re.search(r'<script type="application/json" id="summary">(.+?)</script>', page, re.S)
    assert match is not None
    return json.loads(match[1])


def at(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values[int(key)] if isinstance(values, list) else values[key]
    return values


def plain(text: str) -> str:
    return text.replace(NBSP, " ")


def test_sections_stand_in_their_order(page: str, made: str) -> None:
    assert tuple(re.findall(r'<section class="part" id="([^"]+)"', page)) == ORDER
    left = tuple(name for name in ORDER if name != "traffic")
    assert tuple(re.findall(r'<section class="part" id="([^"]+)"', made)) == left


def test_figures_are_those_of_the_json(
    page: str, made: str, prediction: Prediction, asked: WhatIf, found: WhatIf
) -> None:
    sent = traffic(prediction)
    cases = ((page, answer(prediction, what_if=asked, traffic=sent)),)
    for text, expected in (*cases, (made, answer(prediction, what_if=found))):
        values = embedded(text)
        assert values == json.loads(json.dumps(expected))
        figures = re.findall(r'<data value="([^"]+)" data-figure="(what_if[^"]+)">', text)
        kinds = {name.split(".")[1] for _, name in figures}
        assert kinds == {"freed", "neighbours", "sensitivities", "break_evens", "scaling"}
        for value, name in figures:
            assert float(value) == at(values, name), name
    assert "traffic" in embedded(page) and "traffic" not in embedded(made)


def test_every_answer_has_its_row(page: str, asked: WhatIf) -> None:
    for name, number in (
        ("freed.{}.gain", len(asked.freed)),
        ("neighbours.{}.peak_memory_bytes", len(asked.neighbours)),
        ("sensitivities.{}.low_s", len(asked.sensitivities)),
        ("break_evens.{}.at", len(asked.break_evens)),
        ("scaling.{}.efficiency", len(asked.scaling)),
    ):
        assert number
        for i in range(number):
            assert f'data-figure="what_if.{name.format(i)}"' in page


def test_without_answers_there_are_no_sections(prediction: Prediction, loaded: Loaded) -> None:
    nothing = WhatIf(iteration_ns=prediction.iteration_ns, peak_bytes=None, freed=())
    assert sections_what_if.what_if_sections(nothing, prediction) == {}
    empty = render(prediction, loaded=loaded, what_if=nothing)
    bare = render(prediction, loaded=loaded)
    for name in ("free", "alternatives", "sensitivity", "scaling"):
        assert f'id="{name}"' not in empty and f'id="{name}"' not in bare
    assert "what_if" in embedded(empty) and "what_if" not in embedded(bare)


def test_what_is_freed_is_told_without_the_work_itself(found: WhatIf) -> None:
    claim = plain(what_if_words.freed_claim(found))
    assert claim == (
        "Were the bubble free, the iteration would be 20.0 % shorter; were the latency of messages "
        "free, 1.0 %"
    )
    work = replace(found, freed=found.freed[:1])
    assert "Were matrix products free" in what_if_words.freed_claim(work)
    longer = replace(found, freed=found.freed[-1:])
    assert what_if_words.freed_claim(longer).startswith("Nothing that could be freed")
    reading = plain(what_if_words.free_reading(found))
    assert "the bubble is 25.0 % of rank-time" in reading and "20.0 % shorter" in reading


def test_alternatives_are_counted(found: WhatIf, prediction: Prediction) -> None:
    claim = plain(what_if_words.alternatives_claim(found))
    assert (
        claim == "Of 4 layouts one decision away 1 is faster: microbatch 8 by 7.0 %; 1 does not fit"
    )
    slower = replace(found, neighbours=found.neighbours[1:3])
    text = plain(what_if_words.alternatives_claim(slower))
    assert text == (
        "None of 2 layouts one decision away is faster; schedule gpipe comes nearest, at +7.0 %"
    )
    misfit = replace(found, neighbours=found.neighbours[3:])
    assert "None of 1 layout one decision away fits" in plain(
        what_if_words.alternatives_claim(misfit)
    )
    section = sections_what_if.alternatives_section(misfit, prediction.scenario)
    assert section is not None and section.tables and not section.figures
    assert "100.0 TiB" in plain(section.tables[0].rows[0][4].text)
    note = section.tables[0].rows[0][-1].text
    assert "too much for 8.0 GiB" in plain(note)


def test_leaner_layouts_are_told(found: WhatIf) -> None:
    assert "recomputation full, in 20.0 % more time" in plain(what_if_words.leaner(found))
    assert what_if_words.leaner(replace(found, neighbours=found.neighbours[:2])) == ""


def test_the_front_has_the_given_layout_where_nothing_beats_it(
    found: WhatIf, prediction: Prediction
) -> None:
    plan = prediction.scenario.plan
    chart = charts_what_if.pareto(found, plan, 8 * GIB)
    traces = {trace["name"]: trace for trace in chart["data"]}
    assert what_if_words.is_on_front(found)
    assert len(traces["front"]["x"]) == 3 and len(traces["beaten"]["x"]) == 1
    assert traces["front"]["x"] == sorted(traces["front"]["x"])
    assert traces["front"]["y"] == sorted(traces["front"]["y"], reverse=True)
    assert traces["as given"]["x"] == [found.iteration_ns / 1e9]
    own = found.peak_bytes
    assert own is not None
    better = neighbour(plan, found.iteration_ns, "p2p", "blocking", 0.9, peak_bytes=own)
    beaten = replace(found, neighbours=(*found.neighbours, better))
    assert not what_if_words.is_on_front(beaten)
    chart = charts_what_if.pareto(beaten, plan, None)
    assert len({t["name"]: t for t in chart["data"]}["front"]["x"]) == 2


def test_layouts_far_slower_are_in_the_table_alone(found: WhatIf, prediction: Prediction) -> None:
    far = neighbour(prediction.scenario.plan, found.iteration_ns, "tensor", 2, 9.0)
    more = replace(found, neighbours=(*found.neighbours, far))
    section = sections_what_if.alternatives_section(more, prediction.scenario)
    assert section is not None
    bars, points = section.figures
    assert len(bars.data["data"]) == 3
    times = [x for trace in points.data["data"] for x in trace["x"]]
    assert max(times) < 1.3 * found.iteration_ns / 1e9
    assert plain(points.note) == (
        "In the table alone are 1 layout without room in memory and 1 layout over three times as "
        "slow."
    )
    assert any("tensor 2" in row[1].text for row in section.tables[0].rows)


def test_bars_are_as_long_as_the_gains(found: WhatIf, prediction: Prediction) -> None:
    shares, gains = charts_what_if.freed(found)["data"]
    assert gains["x"] == [100 * one.gain for one in found.freed]
    assert shares["x"] == [50.0, 25.0, 0.0, 0.0]
    assert gains["text"][-1] == "" and charts_what_if.freed(found)["layout"]["annotations"]
    chart = charts_what_if.alternatives(found, prediction.scenario.plan)
    assert [bar["x"][0] for bar in chart["data"]] == pytest.approx([-7.0, 7.0, 20.0], abs=1e-4)
    low, high = chart["layout"]["xaxis"]["range"]
    assert low < -7 and high > 20


def test_names_that_are_alike_have_rows_of_their_own() -> None:
    assert charts_what_if.unique(["a", "b", "a"]) == ["a", "b", "a (2)"]


def test_break_even_points_are_told_from_where_the_scenario_is(found: WhatIf) -> None:
    below, above, memory = (plain(what_if_words.break_even(p)) for p in found.break_evens)
    assert below == (
        "Below 140 Gbit/s of bandwidth between nodes (200 Gbit/s here) microbatch 8 is faster"
    )
    assert above == "Above 40 µs of latency between nodes (5 µs here) schedule gpipe is faster"
    assert memory.startswith(
        "Below 70.0 GiB of device memory (80.0 GiB here) this layout no longer"
    )
    point = found.break_evens[0]
    past = replace(point, now=10e9)
    assert plain(what_if_words.break_even(past)) == (
        "Above 140 Gbit/s of bandwidth between nodes (80 Gbit/s here) microbatch 8 is no longer "
        "faster"
    )
    room = replace(found.break_evens[2], at=90 * GIB, below=False)
    assert "Above 90.0 GiB" in plain(what_if_words.break_even(room))
    assert "which is faster, fits as well" in what_if_words.break_even(room)


@pytest.mark.parametrize(
    ("value", "unit", "field", "text"),
    [
        (2.039e12, "bytes/s", "cluster.device.memory_bandwidth", "2.04 TB/s"),
        (300e9, "bytes/s", "cluster.intra_node.bandwidth", "300 GB/s"),
        (25e9, "bytes/s", "cluster.inter_node.bandwidth", "200 Gbit/s"),
        (5e-6, "s", "cluster.inter_node.latency", "5 µs"),
        (0.785, "fraction", "cluster.device.efficiency.matmul_max", "78.5 %"),
        (80 * GIB, "bytes", "cluster.device.memory", "80.0 GiB"),
        (3.0, "", "other", "3"),
    ],
)
def test_quantities_have_the_units_of_data_sheets(
    value: float, unit: str, field: str, text: str
) -> None:
    assert plain(what_if_words.quantity(value, unit, field)) == text


def test_break_even_marks_are_multiples_of_the_scenario(found: WhatIf) -> None:
    below, above = charts_what_if.break_evens(found.break_evens)["data"]
    assert below["x"] == pytest.approx([0.7, 70 / 80]) and above["x"] == [8.0]
    assert below["marker"]["symbol"] == "triangle-left"
    only: tuple[BreakEven, ...] = found.break_evens[2:]
    ticks = charts_what_if.break_evens(only)["layout"]["xaxis"]["tickvals"]
    assert 1.0 in ticks and len(ticks) > 2


def test_sensitivity_tells_the_largest_input(found: WhatIf, prediction: Prediction) -> None:
    claim = plain(what_if_words.sensitivity_claim(found))
    assert claim.startswith(
        "The time hangs most on matrix product efficiency: 0.8 times as much of it takes 20.0 % "
        "more; below 140 Gbit/s"
    )
    assert claim.endswith("(200 Gbit/s here) microbatch 8 is faster")
    alone = replace(found, break_evens=())
    assert "no layout one decision away becomes faster" in what_if_words.sensitivity_claim(alone)
    points = replace(found, sensitivities=())
    section = sections_what_if.sensitivity_section(points, prediction.scenario)
    assert section is not None and section.claim.startswith("Below 140")
    table = what_if_tables.sensitivities(found, prediction.scenario.plan)
    assert [row[5].text for row in table.rows] == ["none", "× 0.8: microbatch 8"]


def test_scaling_is_told_for_both_batches(found: WhatIf, prediction: Prediction) -> None:
    claim = plain(what_if_words.scaling_claim(found))
    assert claim == (
        "With the same batch 256 devices do 5.83 times the work of 32, at 72.9 % efficiency; with "
        "a batch that grows with the devices 256 devices do 7.76 times the work of 32, at 97.0 % "
        "efficiency"
    )
    chart = charts_what_if.throughput(found)
    ideal, strong, own, weak, _ = chart["data"]
    assert ideal["y"][1] == pytest.approx(8 * ideal["y"][0])
    assert len(strong["x"]) == len(weak["x"]) == 4 and own["x"] == [64]
    assert weak["marker"]["symbol"].count("circle-open") == 1
    single = replace(found, scaling=tuple(p for p in found.scaling if p.is_own))
    assert sections_what_if.scaling_section(single) is None
    table = what_if_tables.scaling(found)
    assert list(table.groups) == [0, 4] and plain(table.rows[1][-1].text) == "as given"


def test_hostile_names_stay_text(prediction: Prediction, loaded: Loaded, found: WhatIf) -> None:
    first, *others = found.neighbours
    evil = replace(
        found,
        freed=(replace(found.freed[1], words=HOSTILE), *found.freed),
        neighbours=(replace(first, also=HOSTILE, value=HOSTILE), *others),
        break_evens=(replace(found.break_evens[0], input=HOSTILE),),
        sensitivities=(replace(found.sensitivities[0], input=HOSTILE),),
        left_out=(HOSTILE,),
    )
    text = render(prediction, loaded=loaded, what_if=evil, command=HOSTILE, trace=HOSTILE)
    assert "<script>alert" not in text
    assert text.count("<script") == text.count("</script>")
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 6


def test_what_was_not_asked_is_told(made: str) -> None:
    assert "What was not asked" in made and "&lt;none&gt; were asked" in made


def test_titles_say_that_figures_are_simulated(
    found: WhatIf, asked: WhatIf, prediction: Prediction
) -> None:
    for one in (found, asked):
        made = sections_what_if.what_if_sections(one, prediction)
        assert list(made) == ["free", "alternatives", "sensitivity", "scaling"]
        for section in made.values():
            assert section.claim and section.reading and section.tables
            assert all("(simulated)" in figure.title for figure in section.figures)
            for figure in section.figures:
                json.dumps(figure.data, allow_nan=False)


def test_a_median_over_draws_is_told_apart(prediction: Prediction, found: WhatIf) -> None:
    now = prediction.figures.iteration_ns
    drawn = replace(prediction, spread_ns=(now, round(1.02 * now), round(1.05 * now)))
    for source, told in ((drawn, True), (prediction, False)):
        made = sections_what_if.what_if_sections(found, source)
        assert all(("the median over draws" in s.reading) is told for s in made.values())


def test_days_without_slow_devices_are_said_to_be(found: WhatIf) -> None:
    fields = ["training.tokens=1e9", "cluster.price_per_device_hour=$1/h"]
    for jitter, told in (("0.1", True), ("0", False)):
        run = predict(load("local-2rank", [*fields, f"training.jitter={jitter}"]).scenario)
        made = sections_what_if.what_if_sections(found, run)
        cost = cost_section(run, answer(run), what_if(run))
        assert cost is not None
        (elsewhere,) = (figure for figure in cost.figures if figure.name == "cost-and-days")
        for text in (made["alternatives"].reading, made["scaling"].reading, elsewhere.note):
            assert ("without slow devices and jitter" in text) is told
