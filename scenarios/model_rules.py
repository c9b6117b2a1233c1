"""Rules about the model alone, each with a value that would work."""

from __future__ import annotations

from collections.abc import Iterator

from scenarios.schema import Scenario

READS = ("model.family", "model.patch_inputs", "model.tied_embeddings", "model.classes")


def find(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """What is wrong with the ends of a scenario's model: the field, and what is wrong with it."""
    model = scenario.model
    if model is None:
        return
    if model.family == "vit" and model.patch_inputs is None:
        yield (
            "model.patch_inputs",
            "is missing: `family: vit` embeds image patches; `patch_inputs: 768` (3 channels x 16 "
            "x 16) would work",
        )
    if model.family == "vit" and model.tied_embeddings:
        yield (
            "model.tied_embeddings",
            "is true, but `family: vit` has no token embedding that its head could share; "
            "`tied_embeddings: false` would work",
        )
    if model.family != "vit" and model.patch_inputs is not None:
        yield (
            "model.patch_inputs",
            f"is for `family: vit` only, and the family is {model.family}: leave it out",
        )
    if model.family != "bert" and model.classes is not None:
        instead = f"`vocabulary: {model.classes}` says it" if model.family == "vit" else "leave it"
        yield (
            "model.classes",
            f"is for `family: bert` only, and the family is {model.family}: {instead}"
            + (", and `classes: null` would work" if model.family == "vit" else " out"),
        )
