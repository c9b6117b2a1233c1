"""Files of runs: defaults, columns of the log's own, groups and replicates."""

import re
from pathlib import Path
from typing import Any

import pytest

from scenarios.loader import load_cluster
from scenarios.schema import Plan
from sim.cost import runs as module
from sim.cost.runs import COLUMNS, OPTIONS, Run, RunsError, fingerprint, parse_runs, read_log

CLUSTER = load_cluster("clusters/dgx-a100")
HEADER = ",".join(COLUMNS)
ROW = "16,64,2,2048,16,24,2048,2,4,2,1234.5"


def run_with(**columns: object) -> Run:
    head = ",".join([HEADER, *columns])
    row = ",".join([ROW, *map(str, columns.values())])
    return parse_runs(f"{head}\n{row}\n", CLUSTER)[0]


def test_defaults_are_those_of_megatron_deepspeed() -> None:
    scenario = run_with().scenario
    assert scenario.plan == Plan(
        schedule="1f1b",
        pipeline=2,
        tensor=2,
        data=4,
        micro_batch=2,
        global_batch=64,
        precision="fp16",
        recomputation="full",
        p2p="blocking",
        scatter_gather=True,
        clip_gradients=True,
    )
    assert scenario.model is not None and scenario.model.vocabulary == 50257


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"chunks": 3}, {"chunks": 3, "schedule": "interleaved"}),
        ({"recomputation": "selective"}, {"recomputation": "selective"}),
        ({"sequence_parallel": "yes"}, {"sequence_parallel": True, "scatter_gather": False}),
        ({"scatter_gather": "no"}, {"scatter_gather": False}),
        ({"clip": "0"}, {"clip_gradients": False}),
        ({"precision": "BF16"}, {"precision": "bf16"}),
        ({"Sharding": "optimizer"}, {"sharding": "optimizer"}),
        ({"gradient_reduction": "overlapped"}, {"gradient_reduction": "overlapped"}),
        ({"recomputation": ""}, {"recomputation": "full"}),
    ],
)
def test_a_column_of_the_log_overrides_the_default(
    columns: dict[str, object], expected: dict[str, Any]
) -> None:
    plan = run_with(**columns).scenario.plan
    assert {name: getattr(plan, name) for name in expected} == expected


def test_columns_of_the_model_and_of_the_nodes() -> None:
    scenario = run_with(vocabulary=32000, ffn_hidden=5504, gpus_per_node=4).scenario
    assert scenario.model is not None and scenario.cluster is not None
    assert (scenario.model.vocabulary, scenario.model.ffn) == (32000, 5504)
    assert (scenario.cluster.nodes, scenario.cluster.devices_per_node) == (4, 4)
    assert scenario.cluster.nics_per_node == 4


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"recomputation": "some"}, "runs:2: recomputation: 'some' is none of none, selective, "),
        ({"schedule": "given"}, "runs:2: schedule: 'given' is none of gpipe"),
        ({"clip": "maybe"}, "runs:2: clip_gradients: 'maybe' is neither `yes` nor `no`"),
        ({"vocabulary": "0"}, "runs:2: vocabulary: '0' is not a whole number above 0"),
        ({"chunks": 5}, "runs:2: plan.chunks: 24 layers do not divide"),
        ({"clip": 1, "clip_gradients": 1}, "runs:1: clip_gradients: named twice"),
    ],
)
def test_a_wrong_column_names_line_and_value(columns: dict[str, object], message: str) -> None:
    with pytest.raises(RunsError) as caught:
        run_with(**columns)
    assert message in str(caught.value)


def test_a_row_with_too_many_cells() -> None:
    with pytest.raises(RunsError, match=r"runs:2: has more cells than the 11 columns"):
        parse_runs(f"{HEADER}\n{ROW},7\n", CLUSTER)


def test_unknown_columns_are_a_note(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"{HEADER},mood,date\n{ROW},good,monday\n")
    log = read_log(path, CLUSTER)
    assert len(log.runs) == 1 and len(log.digest) == 64
    assert log.notes[0].startswith("columns not read: mood, date (")
    path.write_text(f"{HEADER}\n{ROW}\n")
    assert read_log(path, CLUSTER).notes == ()


def test_groups_plans_and_fingerprints() -> None:
    rows = [
        ROW,
        ROW.replace("1234.5", "1300"),  # a replicate
        "16,64,4,2048,16,24,2048,2,4,2,1234.5",  # another plan of the same group
        "16,128,2,2048,16,24,2048,2,4,2,1234.5",  # another batch: another group
    ]
    first, again, plan, batch = parse_runs("\n".join([HEADER, *rows]), CLUSTER)
    assert first.group == again.group == plan.group != batch.group
    assert first.plan == again.plan != plan.plan
    assert len({fingerprint(r) for r in (first, again, plan, batch)}) == 4
    alone = parse_runs(f"{HEADER}\n{rows[1]}", CLUSTER)[0]
    assert fingerprint(alone) == fingerprint(again)


def test_the_table_of_columns_is_complete() -> None:
    assert module.__doc__ is not None
    table = re.findall(r"^\| (\w+)", module.__doc__, flags=re.MULTILINE)
    assert set(table) - {"column"} == set(OPTIONS)
