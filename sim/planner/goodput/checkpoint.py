"""What a checkpoint of a model holds."""

from __future__ import annotations

from functools import lru_cache

from scenarios.schema import PRECISION_BYTES, Model, Plan, Precision, Scenario
from sim.workload.parameters import stage_parameters
from sim.workload.partition import StagePart


def checkpoint_bytes(scenario: Scenario, plan: Plan) -> int | None:
    """Bytes of a checkpoint: as given, else weights in the training precision, master weights and
    optimizer state, each once however many devices hold a copy; None where neither is known.

    The 1,008 billion weights of Megatron-LM's largest model come to 14.1 TB; its authors' have
    13.8 TB (arXiv 2104.04473, section 5.10).
    Not modelled: the state of data loader and random numbers, which is small.
    """
    if scenario.training is not None and scenario.training.checkpoint_size is not None:
        return scenario.training.checkpoint_size
    if scenario.model is None:
        return None
    moments = 2 * (8 if plan.precision == "fp64" else 4) if plan.optimizer == "adam" else 0
    state = moments + (4 if plan.keeps_master_weights else 0)
    return _bytes(scenario.model, plan.precision, state, plan.frozen_layers)


@lru_cache(maxsize=256)
def _bytes(model: Model, precision: Precision, state: int, frozen_layers: int) -> int:
    """state: bytes beside its value for each weight that is trained."""
    part = StagePart(
        stage=0,
        first_layer=0,
        num_layers=model.layers,
        embedding=model.ends,
        head=model.ends,
        frozen_layers=frozen_layers,
    )
    whole = Scenario(name="one device", model=model, plan=Plan(precision=precision))
    held, trained = stage_parameters(part, whole), stage_parameters(part.active, whole)
    return held * PRECISION_BYTES[precision] + trained * state
