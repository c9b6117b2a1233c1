"""TeraPipe's tables: every row as in the data, and the facts of the authors' code."""

from __future__ import annotations

import ast
import re

import pytest
from published_data import published_sets

from scenarios.errors import ScenarioError
from scenarios.files import parse_text
from scenarios.published import _part, choose_tables, load_table

TABLES = choose_tables(["terapipe"])


def tokens(written: str) -> list[int]:
    """The slices in `[(1,[64]*26+[56]*6+[48])]*2`."""
    inner = re.fullmatch(r"\[\(1,(.*)\)\]\*\d+", written)
    assert inner is not None
    found: list[int] = []
    for part in inner[1].split("+"):
        piece, _, times = part.partition("*")
        found += list(ast.literal_eval(piece)) * int(times or 1)
    return found


def test_the_tables() -> None:
    assert TABLES == ("terapipe.fig3", "terapipe.fig6", "terapipe.fig7", "terapipe.latency")
    assert {load_table(t).profile for t in TABLES} == {"v100-16gb"}


def test_settings_are_those_of_table_1_and_latencies_of_the_appendix() -> None:
    settings = {str(row["setting"]): row for row in published_sets()["terapipe.table1"]}
    latencies = {
        (str(row["setting"]), side): row
        for row in published_sets()["terapipe.main"]
        for side in ("w/o", "w/")
        if side in row["algorithm"].split(" and ")[:2] or row["algorithm"].startswith("w/o and")
    }
    rows = load_table("terapipe.latency").rows
    assert len(rows) == len(latencies) == 20
    for row in rows:
        side, key = row.name.split("/")
        model, plan = row.scenario.model, row.scenario.plan
        assert model is not None
        said = settings[key]
        assert (plan.data, plan.pipeline, plan.tensor) == (said["data"], said["pipe"], said["op"])
        assert (plan.num_devices, plan.num_sequences) == (said["gpus"], said["batch"])
        assert (model.layers, model.hidden, model.sequence, model.hidden // model.heads) == (
            said["layers"],
            said["hidden"],
            said["seq"],
            128,
        )
        published = latencies[key, {"without": "w/o", "with": "w/"}[side]]
        assert row.figure == pytest.approx(1e3 * published["latency_s"])
        assert row.deviation == pytest.approx(1e3 * published["std_s"])
        assert list(plan.slices or [2048]) == tokens(published["slicing"])  # type: ignore[arg-type]
        assert f"*{plan.num_microbatches}" in published["slicing"]


def test_figure_6_is_that_of_the_data() -> None:
    expected = {
        (row["model"][5:].lower(), {"DP": "search"}.get(row["slices"], str(row["slices"]))): row
        for row in published_sets()["terapipe.fig6"]
    }
    rows = load_table("terapipe.fig6").rows
    assert {tuple(row.name.split("/")) for row in rows} == set(expected)
    sliced = {row.name: row.scenario for row in load_table("terapipe.latency").rows}
    for row in rows:
        block, key = row.name.split("/")
        assert row.figure == pytest.approx(1e3 * expected[block, key]["latency_s"])
        other = sliced[f"{'with' if key == 'search' else 'without'}/{9 if block == '175b' else 8}"]
        plan = row.scenario.plan
        assert plan.num_sequences == other.plan.num_sequences
        if key in ("1", "search"):
            assert plan == other.plan
        else:
            assert plan.slices == int(key)


def test_figures_7_and_3_are_those_of_the_data() -> None:
    by_length = {str(row["seq"]): row for row in published_sets()["terapipe.fig7"]}
    for row in load_table("terapipe.fig7").rows:
        side, key = row.name.split("/")
        said = by_length[key]
        figure = said["latency_wo_s" if side == "without" else "latency_w_s"]
        assert row.figure == pytest.approx(1e3 * figure)
        assert row.scenario.plan.num_microbatches == said["batch"]
        assert row.scenario.model is not None and row.scenario.model.sequence == said["seq"]
    figures = [row.figure for row in load_table("terapipe.fig3").rows]
    assert figures == [row["t_fwd_ms"] for row in published_sets()["terapipe.fig3"]]
    assert load_table("terapipe.fig3").part == ("layer", "forward")


def test_facts_of_the_authors_code() -> None:
    for table_id in TABLES:
        for row in load_table(table_id).rows:
            model, plan = row.scenario.model, row.scenario.plan
            assert model is not None and not model.ends
            assert (plan.precision, plan.reduced_precision, plan.kernels) == (
                "fp16",
                "fp16",
                "plain",
            )
            assert plan.keeps_master_weights and not plan.clip_gradients
            assert plan.recomputation == "none"
            if table_id != "terapipe.fig3":
                assert (plan.schedule, plan.p2p) == ("terapipe", "exchange")
                assert plan.broadcast_messages and plan.placement == "tensor-pipeline-data"


def test_the_part_of_a_table_is_one_that_there_is() -> None:
    root = parse_text("part: layer sideways\n", "t.yaml", [])
    with pytest.raises(ScenarioError, match="must be one of `layer forward`"):
        _part(root)
