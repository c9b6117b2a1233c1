"""Published tables: every row as in the data, its facts, its name, and the errors of a table."""

from __future__ import annotations

from pathlib import Path

import pytest
from published_data import published_sets

from scenarios import catalogue
from scenarios.errors import Problem, ScenarioError
from scenarios.files import parse_text
from scenarios.loader import load
from scenarios.published import PublishedRow, choose_tables, load_table
from scenarios.schema import Cluster, Model, Plan
from scenarios.tables import rows_of

TABLES = choose_tables(["megatron"])


def parts(row: PublishedRow) -> tuple[Model, Cluster, Plan]:
    model, cluster = row.scenario.model, row.scenario.cluster
    assert model is not None and cluster is not None
    return model, cluster, row.scenario.plan


def test_all_tables_are_there() -> None:
    figures = [f"ptdp.fig{n}" for n in (7, 11, 12, 13, 14, 15, 16, 17, 18)]
    assert ("megatron.2020_tp", *figures, "ptdp.table1", "ptdp.table2") == TABLES
    assert sum(len(load_table(t).rows) for t in TABLES) == 128


@pytest.mark.parametrize("table_id", TABLES)
def test_rows_are_those_of_the_data(table_id: str) -> None:
    """Each row has the degrees, batch, shape and figure of one of the data's; none is left."""
    keys = {"tflops_per_gpu", "seq_per_s"} if table_id != "megatron.2020_tp" else {"iter_ms"}
    expected = []
    for row in published_sets()[table_id]:
        zero = str(row.get("scheme", "")).startswith("ZeRO")
        expected.append(
            (
                next(row[k] for k in keys if k in row),
                row.get("gpus", 1),
                1 if zero else row.get("tp", 1),
                1 if zero else row.get("pp", 1),
                row.get("gbs", row.get("mbs")),
                row.get("mbs"),
                row.get("v", 1),
                row.get("layers"),
                row.get("hidden"),
                row.get("heads"),
            )
        )
    for row in load_table(table_id).rows:
        if row.figure is None:
            continue
        model, _, plan = parts(row)
        found = (
            row.figure,
            plan.num_devices,
            plan.tensor,
            plan.pipeline,
            plan.num_sequences,
            plan.micro_batch,
            plan.chunks,
            model.layers,
            model.hidden,
            model.heads,
        )
        # What the data does not say in a row is said in the table's notes.
        matching = [
            e for e in expected if all(a is None or a == b for a, b in zip(e, found, strict=True))
        ]
        assert matching, f"{row.full_name}: {found}"
        expected.remove(matching[0])
    assert expected == []


def test_facts_of_the_authors_code() -> None:
    for table_id in TABLES:
        for row in load_table(table_id).rows:
            model, cluster, plan = parts(row)
            assert (plan.precision, plan.reduced_precision) == ("fp16", "fp16")
            assert plan.clip_gradients and plan.keeps_master_weights
            assert plan.placement == "tensor-data-pipeline"
            assert model.vocabulary == 51200
            assert model.sequence == (1024 if table_id == "megatron.2020_tp" else 2048)
            assert cluster.num_devices == plan.num_devices
            assert plan.pipeline == 1 or (
                plan.p2p == "blocking" and plan.gradient_reduction == "after"
            )
            if plan.pipeline > 1 and plan.tensor > 1:
                assert plan.scatter_gather == (
                    not row.full_name.startswith("published/ptdp.fig18/off")
                )


def test_single_stage_rows_overlap_their_reductions() -> None:
    rows = load_table("ptdp.table1").rows
    kinds = {row.name: row.scenario.plan.gradient_reduction for row in rows}
    assert [n for n, k in kinds.items() if k == "overlapped"] == ["1.7b", "3.6b", "7.5b", "18b"]
    zero = load("ptdp.table2/zero3/175b-384").scenario.plan
    assert (zero.sharding, zero.data, zero.gradient_reduction) == ("full", 384, "overlapped")


def test_a_row_smaller_than_a_node_has_its_share_of_one() -> None:
    _, cluster, _ = parts(load_table("megatron.2020_tp").rows[1])
    assert (cluster.nodes, cluster.devices_per_node, cluster.nics_per_node) == (1, 2, 1)
    assert cluster.device.name == "V100-SXM2-32GB"


def test_rows_that_did_not_fit_have_no_figure() -> None:
    rows = load_table("ptdp.fig17").rows
    assert {r.name for r in rows if not r.fits} == {f"none/b{2**k}" for k in range(4, 9)}
    assert all((r.figure is None) == (not r.fits) for r in rows)


def test_a_row_is_a_scenario_by_its_name_and_can_be_extended(tmp_path: Path) -> None:
    long, short = load("published/ptdp.table1/1t"), load("ptdp.table1/1t")
    assert long.scenario == short.scenario and long.scenario.name == "ptdp.table1/1t"
    assert long.scenario.cluster is not None and long.scenario.cluster.nodes == 384
    assert "ptdp.table1.yaml" in str(long.origins["plan.pipeline"])
    file = tmp_path / "mine.yaml"
    file.write_text("extends: published/ptdp.fig12/plain/b12\nplan: {global_batch: 24}\n")
    mine = load(file).scenario
    assert (mine.name, mine.plan.pipeline, mine.plan.num_microbatches) == ("mine", 12, 24)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("published/ptdp.table1", "a table of 10 scenarios, not one: name one, as `published/"),
        ("ptdp.table1/1tt", "has no row `1tt`: name one, as `published/ptdp.table1/1t`"),
        ("ptdp.fig12/b12", "`published/ptdp.fig12/plain/b12`"),
    ],
)
def test_wrong_names_are_told_right_ones(name: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(name)
    assert message in str(caught.value)


def test_rule_errors_name_the_line_of_the_row() -> None:
    with pytest.raises(ScenarioError) as caught:
        load_table("ptdp.fig13", ["model.heads=16"])
    row = next(r for r in rows_of(catalogue.table("ptdp.fig13")[0]) if r.name == "t32-p2-b32")
    problems = [p for p in caught.value.problems if p.field == "plan.tensor"]
    assert problems[0].file.endswith("ptdp.fig13.yaml") and problems[0].line == row.at.line
    assert "heads 16 does not divide by tensor 32" in problems[0].message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("columns: [a, b]\nblocks: [{rows: {x: [1]}}]\n", "t.yaml:2:18: has 1 cells for 2 columns"),
        ("columns: [a]\nblocks: [{rows: {x: [1]}}, {rows: {x: [2]}}]\n", "two rows are called `x`"),
        ("columns: [a]\nblocks: [{row: {x: [1]}}]\n", "a block has no `row`"),
        ("columns: [a]\nbloks: []\n", "a table has no `bloks`"),
        ("blocks: []\n", "`columns` is missing"),
    ],
)
def test_wrong_tables_say_where(text: str, message: str) -> None:
    problems: list[Problem] = []
    with pytest.raises(ScenarioError) as caught:
        rows_of(parse_text(text, "t.yaml", problems))
    assert message in str(caught.value)


def test_tables_are_chosen_by_name_pattern_and_group() -> None:
    assert choose_tables(["ptdp.table2", "published/ptdp.fig7"]) == ("ptdp.fig7", "ptdp.table2")
    assert choose_tables(["ptdp.table*"]) == ("ptdp.table1", "ptdp.table2")
    with pytest.raises(ScenarioError, match=r"ptdp\.fig99: no published table is called so"):
        choose_tables(["ptdp.fig99"])
