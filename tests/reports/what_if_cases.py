"""Made-up answers to what-if questions, around a prediction's own figures."""

from __future__ import annotations

from dataclasses import replace

from scenarios.schema import Plan
from sim.planner.layouts.found import Sensitivity
from sim.prediction import Prediction
from sim.what_if.found import BreakEven, Freed, Neighbour, ScalingPoint, WhatIf


def neighbour(
    plan: Plan, iteration_ns: int, field: str, value: object, factor: float | None, **more: object
) -> Neighbour:
    """A layout with one field otherwise that takes so many times as long; None: does not fit."""
    known: dict[str, object] = {
        "peak_bytes": 8 << 30,
        "days": None,
        "dollars": None,
        "on_front": False,
        **more,
    }
    return Neighbour(
        field=field,
        value=str(value),
        plan=replace(plan, **{field: value}),  # type: ignore[arg-type]
        iteration_ns=None if factor is None else round(factor * iteration_ns),
        fits=factor is not None,
        slower=None if factor is None else round(factor * iteration_ns) / iteration_ns - 1,
        **known,  # type: ignore[arg-type]
    )


def made_up(prediction: Prediction) -> WhatIf:
    """Every kind of answer: faster, slower and too large layouts, both sides of break-even points,
    inputs with and without a better layout, both kinds of scaling."""
    plan, now = prediction.scenario.plan, prediction.figures.iteration_ns
    memory = prediction.memory
    peak = max(curve.peak_bytes for curve in memory) if memory else None
    around = peak or 1 << 30
    faster = neighbour(
        plan, now, "micro_batch", 8, 0.93, peak_bytes=around + (1 << 28), on_front=True, days=3.1
    )
    leaner = neighbour(
        plan, now, "recomputation", "full", 1.2, peak_bytes=around // 2, on_front=True
    )
    slower = neighbour(plan, now, "schedule", "gpipe", 1.07, peak_bytes=2 * around, dollars=1234.5)
    misfit = neighbour(plan, now, "micro_batch", 16, None, peak_bytes=100 << 40)
    return WhatIf(
        iteration_ns=now,
        peak_bytes=peak,
        plan=plan,
        freed=(
            Freed(
                what="matmul", words="matrix products", share=0.5, iteration_ns=now // 2, gain=0.5
            ),
            Freed(
                what="bubble",
                words="the bubble: waiting for other ranks",
                share=0.25,
                iteration_ns=round(0.8 * now),
                gain=0.2,
            ),
            Freed(
                what="latency",
                words="the latency of messages",
                share=None,
                iteration_ns=round(0.99 * now),
                gain=0.01,
            ),
            Freed(
                what="contention",
                words="queueing for links",
                share=None,
                iteration_ns=round(1.001 * now),
                gain=-0.001,
            ),
        ),
        neighbours=(faster, slower, leaner, misfit),
        sensitivities=(
            sensitivity(now, "matrix product efficiency", "device.efficiency.matmul_max", 1.2, 0.9),
            sensitivity(
                now,
                "bandwidth between nodes",
                "inter_node.bandwidth",
                1.05,
                0.97,
                low_plan=faster.plan,
            ),
        ),
        break_evens=(
            BreakEven(
                input="bandwidth between nodes",
                field="cluster.inter_node.bandwidth",
                unit="bytes/s",
                now=25e9,
                at=17.5e9,
                below=True,
                neighbour=faster,
                iteration_ns=now,
            ),
            BreakEven(
                input="latency between nodes",
                field="cluster.inter_node.latency",
                unit="s",
                now=5e-6,
                at=40e-6,
                below=False,
                neighbour=slower,
                iteration_ns=now,
            ),
            BreakEven(
                input="device memory",
                field="cluster.device.memory",
                unit="bytes",
                now=80 << 30,
                at=70 << 30,
                below=True,
                neighbour=leaner,
            ),
        ),
        scaling=tuple(scaling(prediction)),
        left_out=("schedules of other kinds: <none> were asked",),
    )


def sensitivity(
    now: int, name: str, field: str, low: float, high: float, *, low_plan: Plan | None = None
) -> Sensitivity:
    """An input whose low and high values make the iteration so many times as long."""
    return Sensitivity(
        input=name,
        field=f"cluster.{field}",
        low=0.8,
        high=1.2,
        low_ns=round(low * now),
        high_ns=round(high * now),
        overtaken_low=low_plan,
        overtaken_high=None,
    )


def scaling(prediction: Prediction) -> list[ScalingPoint]:
    """Half to four times the devices, less efficient with the same batch than with a larger one."""
    plan, now = prediction.scenario.plan, prediction.figures.iteration_ns
    made = []
    for kind, lost in (("strong", 0.9), ("weak", 0.99)):
        for i, times in enumerate((0.5, 1, 2, 4)):
            batch = plan.num_sequences * (1 if kind == "strong" else times)
            rate = 1000 * times * lost**i
            made.append(
                ScalingPoint(
                    kind=kind,  # type: ignore[arg-type]
                    num_devices=round(64 * times),
                    data=round(8 * times),
                    global_batch=round(batch),
                    iteration_ns=round(now / lost**i if kind == "weak" else now / times / lost**i),
                    tokens_per_s=rate,
                    tflops_per_gpu=150 * lost**i,
                    efficiency=lost**i,
                    peak_bytes=10 << 30,
                    fits=i < 3 or kind == "strong",
                    days=40 / times / lost**i if kind == "strong" else None,
                    dollars=1e5 / lost**i if kind == "strong" else None,
                    is_own=times == 1,
                )
            )
    return made
