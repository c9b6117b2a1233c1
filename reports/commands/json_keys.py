"""What `--json` holds, for the reference: of each command its keys, and what they say.

Plain figures are fractions (0.035), never percent; names end in their unit.
"""

from __future__ import annotations

_ITERATION = {
    "scenario": "its name",
    "digest": "SHA-256 of what is simulated, without name and description",
    "origin": "`simulated` or `measured`",
    "engine": "which one simulated",
    "iteration_s": "time of one iteration",
    "model_tflops_per_gpu": "useful FLOPs, by the model's formula",
    "hardware_tflops_per_gpu": "those computed, with recomputation",
    "mfu": "model FLOPs over the peak",
    "hfu": "computed FLOPs over the peak",
    "sequences_per_s": "throughput",
    "tokens_per_s": "throughput",
    "training_days": "of the tokens of `training`, without failures; null without it",
    "training_gpu_hours": "the same, in GPU hours",
    "training_cost_dollars": "the same, at the cluster's price",
    "bubble_fraction": "waiting over all time of all ranks",
    "span_bubble_fraction": "the same over the pipeline's span alone, without flush and optimizer",
    "bubble_over_ideal": "idle over ideal time, as papers define it",
    "exposed_communication_fraction": "communication that nothing hides",
    "breakdown": "what the ranks' time goes to: fractions, sum 1",
    "ranks": "`rank`, `peak_memory_bytes`, `busy_s`, `bubble_s`, `exposed_communication_s`",
    "fits": "whether the peak fits in memory",
    "memory_capacity_bytes": "of one device",
    "critical_path": "seconds of the longest chain, by kind of action",
    "assumed": "values that nobody gave",
    "training": "the run with failures: days, dollars, goodput, checkpoints; null without one",
}
KEYS: dict[str, dict[str, str]] = {
    "simulate": {
        **_ITERATION,
        "traffic": "bytes by pair of devices, by link and by kind",
        "what_if": "with `--what-if`: what the time hangs on",
    },
    "run": {
        **{
            key: words
            for key, words in _ITERATION.items()
            if key in ("scenario", "origin", "iteration_s", "bubble_fraction", "ranks", "fits")
        },
        "check": "with `--check`: `passed`, and the differences to a single process",
    },
    "validate": {
        "sets": "one for each table or file: `id`, `n`, `mape`, `bias`, `worst`, `kendall_tau`, "
        "`regret`, and `points` (`what`, `predicted_s`, `measured_s`, `error`)",
        "structural_error": "with `--measured`: the run's own durations through the engine",
        "predictive_error": "with `--measured`: durations of the profile, or of the device model",
    },
    "calibrate": {"sets": "as `validate`, of the runs that were fitted"},
    "compare": {
        "names": "of `a` and `b`",
        "a": "as `simulate`",
        "b": "as `simulate`",
        "nothing_differs": "whether the two are the same",
        "difference_uncertainty_s": "of the difference in time, where runs were measured",
        "work": "whether both do the same work an iteration",
        "differences": "fields: `field`, `a`, `b`, and where each is written",
        "figures": "`name`, `a`, `b`, `difference`, `ratio`",
        "time_by_category": "`category`, `a_s`, `b_s`, `difference_s`",
        "categories_by_pass": "whether categories are passes, as a run measures them",
    },
    "plan": {
        "best": "the best layout: `plan`, `gpus`, `iteration_s`, `peak_memory_bytes`, ...; null "
        "where none fits",
        "ranked": "the best ones, as `best`",
        "front": "those that nothing beats in time and GPUs",
        "baseline": "the scenario's own layout, as `best`",
        "alternatives": "the best with one decision otherwise, and why it is slower",
        "sensitivities": "what the choice hangs on: each input lower and higher",
        "spaces": "how many candidates were counted, refused, left out, simulated",
    },
    "slice": {
        "best": "`how`, `microbatches`, `iteration_s`, `formula_s`, `peak_memory_bytes`, `fits`",
        "unsliced": "the scenario without slices, as `best`",
        "speedup": "unsliced over best",
        "candidates": "all that were simulated",
    },
    "scenario list": {"catalogue": "entries: `name`, `kind`, `description`"},
    "schedule check": {
        "schedule": "its name",
        "ranks": "how many",
        "microbatches": "how many",
        "in_flight": "microbatches that each rank holds at most",
        "deadlocks": "by kind of send, whether it deadlocks",
    },
    "doctor": {
        "works": "whether nothing that is needed is broken",
        "findings": "`room`, `what`, `status` (ok, info, lost, broken), `detail`, `remedy`",
    },
}
