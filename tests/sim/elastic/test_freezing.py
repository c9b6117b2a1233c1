"""When layers freeze: the published sequences, the adaptive rule, what holds for any of them."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.schema import Elastic, Model, Scenario
from sim.elastic.freezing import adaptive, frozen_at, frozen_by_epoch, largest_step

ALPHAS = st.fractions(
    min_value=Fraction(1, 100), max_value=Fraction(99, 100), max_denominator=100
).map(float)
# arXiv 2102.03161 and its authors' code: alpha 1/3; the others worked out by hand in fractions.
PUBLISHED = [
    (12, 1 / 3, (0, 4, 7, 9, 10, 11, 11, 12, 12, 12)),
    (24, 1 / 3, (0, 8, 14, 17, 20, 21, 22, 23, 24, 24)),
    (12, 1 / 5, (0, 3, 5, 6, 8, 9, 9, 10, 10, 11)),
    (12, 1 / 4, (0, 3, 6, 7, 9, 10, 10, 11, 11, 12)),
    (12, 2 / 5, (0, 5, 8, 10, 11, 12, 12, 12, 12, 12)),
    (12, 1 / 2, (0, 6, 9, 11, 12, 12, 12, 12, 12, 12)),
]


def run_of(layers: int, **settings: object) -> Scenario:
    model = Model(layers=layers, hidden=8, heads=2, sequence=4, vocabulary=8)
    elastic = Elastic(**{"epochs": 10, "samples": 64, **settings})  # type: ignore[arg-type]
    return Scenario(name="run", model=model, elastic=elastic)


@pytest.mark.parametrize(("layers", "alpha", "frozen"), PUBLISHED)
def test_published_sequences(layers: int, alpha: float, frozen: tuple[int, ...]) -> None:
    assert frozen_by_epoch(run_of(layers, alpha=alpha)) == frozen


def test_decimals_of_a_third_freeze_as_a_third_does() -> None:
    assert frozen_at(12, 0.3333, 1) == frozen_at(12, 1 / 3, 1) == 4


def test_an_interval_holds_each_decision_for_so_many_epochs() -> None:
    frozen = frozen_by_epoch(run_of(12, interval=3))
    assert frozen == (0, 0, 0, 4, 4, 4, 7, 7, 7, 9)


def test_nothing_freezes_where_freezing_is_off() -> None:
    assert frozen_by_epoch(run_of(12, freeze="off")) == (0,) * 10


def test_the_adaptive_bound_freezes_from_what_is_frozen() -> None:
    # ceil(10 + 2/3) = 11 and ceil(11 + 1/3) = 12, where the closed form still has 11.
    frozen = frozen_by_epoch(run_of(12, freeze="adaptive"))
    assert frozen == (0, 4, 7, 9, 10, 11, 12, 12, 12, 12)
    halves = frozen_by_epoch(run_of(12, freeze="adaptive", interval=2, epochs=5))
    assert halves == (0, 0, 4, 4, 7)


def test_adaptive_freezes_below_the_least_norm() -> None:
    norms = [9.0, 8.0, 1.0, 7.0, 5.0, 6.0]
    assert adaptive(0, 6, 0.5, norms) == 2
    assert adaptive(0, 6, 0.9, norms) == 2
    assert adaptive(0, 6, 0.1, norms) == 1  # the bound is lower
    assert adaptive(3, 6, 0.5, norms) == 4  # the norms of frozen layers are not read
    assert adaptive(6, 6, 0.5, norms) == 6


def test_adaptive_freezes_nothing_where_the_first_active_layer_moves_least() -> None:
    assert adaptive(2, 6, 0.9, [0.0, 0.0, 1.0, 2.0, 3.0, 4.0]) == 2
    assert adaptive(0, 3, 0.9, [1.0, 1.0, 1.0]) == 0


def test_a_norm_that_is_no_number_is_not_the_least() -> None:
    assert adaptive(0, 3, 0.9, [math.nan, 2.0, 1.0]) == 2


def test_norms_must_be_one_a_layer() -> None:
    with pytest.raises(ValueError, match="2 gradient norms for 3 layers"):
        adaptive(0, 3, 0.5, [1.0, 2.0])


@given(layers=st.integers(1, 100), alpha=ALPHAS, decision=st.integers(0, 40))
def test_the_closed_form_grows_and_never_passes_the_layers(
    layers: int, alpha: float, decision: int
) -> None:
    now, then = frozen_at(layers, alpha, decision), frozen_at(layers, alpha, decision + 1)
    assert 0 <= now <= then <= layers
    assert frozen_at(layers, alpha, 0) == 0 < frozen_at(layers, alpha, 1)


@given(
    layers=st.integers(1, 24),
    alpha=ALPHAS,
    data=st.data(),
)
def test_adaptive_is_monotone_and_below_its_bound(
    layers: int, alpha: float, data: st.DataObject
) -> None:
    frozen = bound = 0
    for _ in range(6):
        norms = data.draw(st.lists(st.floats(0, 10), min_size=layers, max_size=layers))
        before, frozen = frozen, adaptive(frozen, layers, alpha, norms)
        bound = largest_step(bound, layers, alpha)
        assert before <= frozen <= bound <= layers
