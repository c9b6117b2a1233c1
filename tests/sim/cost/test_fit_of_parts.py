"""Fits to times of passes beside those of iterations, and to runs that spread."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scenarios.published import PublishedTable, load_table
from sim.cost.device import matmul_efficiency
from sim.cost.fit import PartPoint, fit_runs, parameters_for, predict_runs
from sim.cost.path import closed_form
from sim.cost.runs import Run

TABLE: PublishedTable = load_table("terapipe.latency")
TRUE = {"matmul_max": 0.7, "layer_overhead": 2e6, "inter_node.efficiency": 0.7}


def runs() -> list[Run]:
    """Four settings whose times are the model's own, by the closed form."""
    rows = {row.name: row.scenario for row in TABLE.rows}
    chosen = [rows[f"without/{n}"] for n in (3, 5, 8, 10)]
    asked = [Run(scenario=s, measured_ns=1.0, line=1) for s in chosen]
    times = predict_runs(asked, TRUE, closed_form)
    return [replace(r, measured_ns=t) for r, t in zip(asked, times, strict=True)]


def parts() -> list[PartPoint]:
    found = []
    for row in load_table("terapipe.fig3").rows:
        point = PartPoint(scenario=row.scenario, part="layer", name="forward", time_ns=1.0)
        found.append(replace(point, time_ns=point.predicted_ns(TRUE)))
    return found


def test_times_of_passes_tell_the_host_s_time() -> None:
    with_parts = fit_runs(runs(), closed_form, parts=parts())
    assert with_parts.values["layer_overhead"] == pytest.approx(2e6, rel=0.02)
    assert with_parts.parameters["layer_overhead"].interval is not None
    assert with_parts.values["matmul_max"] == pytest.approx(0.7, rel=0.1)
    assert "layer_overhead" not in fit_runs(runs(), closed_form, max_rounds=1).parameters


def test_a_point_takes_the_parameters_given() -> None:
    short, long = parts()
    assert short.predicted_ns({"layer_overhead": 3e6}) == 3e6
    assert long.predicted_ns({"matmul_max": 0.4}) > long.predicted_ns({"matmul_max": 0.8})


def test_runs_that_spread_count_less() -> None:
    """Of two runs that contradict each other, the fit goes with the steadier."""
    (one, *_), other = runs(), runs()[3]
    parameters = [p for p in parameters_for([one], []) if p.name == "matmul_max"]

    def error(spread: float) -> float:
        wrong = replace(other, measured_ns=1.3 * other.measured_ns, spread=spread)
        right = [replace(r, spread=0.001) for r in runs()[2:3]]
        fit = fit_runs([*right, wrong], closed_form, parameters=parameters, max_rounds=2)
        return abs(fit.predicted_ns[0] / right[0].measured_ns - 1)

    assert error(0.5) < 0.5 * error(0.001)


def test_rows_of_a_product_may_have_a_half_of_their_own() -> None:
    cluster = TABLE.rows[0].scenario.cluster
    assert cluster is not None
    device = cluster.device
    plain = replace(device, efficiency=replace(device.efficiency, matmul_half_rows=None))
    own = replace(device, efficiency=replace(device.efficiency, matmul_half_rows=0.0))
    half = device.efficiency.matmul_half_dimension
    assert matmul_efficiency(plain, 64, 4096, 4096) == pytest.approx(
        matmul_efficiency(own, 64, 4096, 4096) * 64 / (64 + half)
    )
    assert matmul_efficiency(own, 64, 4096, 4096) == matmul_efficiency(own, 9, 4096, 4096)
