"""A classifier of one token a sequence: vit's, and bert's with classes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scenarios.schema import Model, Plan, Scenario
from sim.cost.shapes import shape_of
from sim.schedule.build import flush_of
from sim.schedule.generators import gpipe
from sim.workload.flops import model_flops, num_parameters
from sim.workload.memory import logit_bytes, memory_model
from sim.workload.operations import Product
from sim.workload.parameters import (
    embedding_parameters,
    head_parameters,
    layer_parameters,
    sequence_parallel_parameters,
)
from sim.workload.setting import setting_of
from sim.workload.transformer import head

BERT = Model(
    family="bert", layers=2, hidden=64, heads=4, sequence=32, vocabulary=512, classes=3, name="b"
)
VIT = Model(
    family="vit",
    layers=2,
    hidden=64,
    heads=4,
    sequence=32,
    vocabulary=3,
    patch_inputs=48,
    tied_embeddings=False,
)


def scenario(model: Model) -> Scenario:
    return Scenario(name="s", model=model, plan=Plan(pipeline=2, micro_batch=5))


@pytest.mark.parametrize("model", [BERT, VIT])
def test_a_norm_and_one_product_of_one_token(model: Model) -> None:
    setting = setting_of(scenario(model))
    products = [o for o in head(setting).forward if isinstance(o, Product)]
    assert [(p.m, p.k, p.n) for p in products] == [(5, 64, 3)]
    assert head_parameters(model) == 2 * 64 + 65 * 3
    assert logit_bytes(setting) == 4 * 5 * 3
    assert head(setting) == head(setting_of(scenario(VIT if model is BERT else BERT)))


def test_a_bert_with_classes_has_its_token_table_once_and_shares_it_with_nobody() -> None:
    assert BERT.tied_embeddings and not BERT.shares_table
    own = embedding_parameters(BERT)
    assert own == 512 * 64 + 32 * 64
    assert num_parameters(BERT) == 2 * layer_parameters(BERT) + own + 2 * 64 + 65 * 3
    assert not flush_of(scenario(BERT)).reduce_tied
    masked = replace(BERT, classes=None)
    assert flush_of(scenario(masked)).reduce_tied
    assert sequence_parallel_parameters(BERT, 0, head=True) == 2 * 64
    assert sequence_parallel_parameters(masked, 0, head=True) == 2 * 64 + 64 * 64 + 3 * 64
    one = replace(scenario(BERT), plan=Plan())
    memory = memory_model(one, gpipe(1, 1))
    assert memory is not None
    assert memory.static_bytes(0)["parameters"] == 2 * num_parameters(BERT)


def test_flops_of_the_head() -> None:
    layers = 3 * 2 * (2 * 5 * 32 * (4 * 64 * 64 + 2 * 64 * 256) + 4 * 5 * 32 * 32 * 64)
    assert model_flops(BERT, 5) == layers + 6 * 5 * 64 * 3
    assert model_flops(VIT, 5) == layers + 6 * 5 * 64 * 3 + 4 * 5 * 32 * 48 * 64


def test_its_times_are_not_those_of_a_masked_token_loss() -> None:
    assert shape_of(scenario(BERT)).family == "bert-classifier"
    assert shape_of(scenario(replace(BERT, classes=None))).family == "bert"
