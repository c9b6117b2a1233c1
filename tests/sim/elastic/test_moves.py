"""What travels between two layouts: all that is missing, and nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from sim.elastic.moves import Fork, Move, forks, holders, moves, stage_parts
from sim.elastic.phases import Layout

NUM_RANKS = 8


@st.composite
def layouts(draw: st.DrawFn, layers: int = 10) -> Layout:
    """A layout of ten layers over up to eight ranks; where fewer work, replicas may lie apart."""
    pipeline = draw(st.sampled_from([1, 2, 4, 8]))
    cuts = sorted(
        draw(st.sets(st.integers(1, layers - 1), min_size=pipeline - 1, max_size=pipeline - 1))
    )
    counts = tuple(b - a for a, b in zip([0, *cuts], [*cuts, layers], strict=True))
    data = draw(st.integers(1, NUM_RANKS // pipeline))
    return Layout(
        frozen_layers=0,
        layers_per_stage=counts,
        data=data,
        micro_batch=1,
        microbatches=1,
        replica_ranks=draw(st.integers(pipeline, NUM_RANKS // data)),
    )


def layout(counts: tuple[int, ...], data: int = 1, apart: int | None = None) -> Layout:
    return Layout(
        frozen_layers=0,
        layers_per_stage=counts,
        data=data,
        micro_batch=1,
        microbatches=1,
        replica_ranks=apart,
    )


def having(held: Layout) -> set[tuple[str, int]]:
    return {(part, rank) for part, ranks in holders(held).items() for rank in ranks}


@given(old=layouts(), new=layouts())
def test_every_new_holder_gets_every_part(old: Layout, new: Layout) -> None:
    have = having(old)
    for move in moves(old, new):
        assert (move.part, move.source) in having(old)
        have.add((move.part, move.target))
    for part, ranks in holders(new).items():
        assert (part, ranks[0]) in have
    for fork in forks(old, new):
        for part in fork.parts:
            assert (part, fork.source) in have
            have |= {(part, rank) for rank in fork.ranks}
    assert having(new) <= have


@given(old=layouts(), new=layouts())
def test_no_rank_is_sent_what_it_has_or_does_not_need(old: Layout, new: Layout) -> None:
    found = moves(old, new)
    assert len({(m.part, m.target) for m in found}) == len(found)
    for move in found:
        assert (move.part, move.target) not in having(old)
        assert holders(new)[move.part][0] == move.target
    for fork in forks(old, new):
        for part in fork.parts:
            assert any((part, rank) not in having(old) for rank in fork.ranks)


@given(same=layouts())
def test_nothing_travels_between_equal_layouts(same: Layout) -> None:
    assert not moves(same, same)
    assert not forks(same, same)


def test_halving_a_pipeline_of_two_replicas() -> None:
    """Ranks 0 and 1 are replica 0, and 2 and 3 replica 1, of two layers; then all hold both."""
    old, new = layout((1, 1), data=2), layout((2,), data=4)
    assert holders(old) == {
        "embedding": (0, 2),
        "layer 0": (0, 2),
        "layer 1": (1, 3),
        "head": (1, 3),
    }
    assert moves(old, new) == (
        Move(part="layer 1", source=1, target=0),
        Move(part="head", source=3, target=0),
    )
    everything = ("embedding", "layer 0", "layer 1", "head")
    assert forks(old, new) == (Fork(stage=0, parts=everything, ranks=(0, 1, 2, 3)),)


def test_idle_ranks_between_replicas_hold_nothing() -> None:
    kept = layout((1, 1), data=2, apart=4)
    assert holders(kept)["head"] == (1, 5)
    assert moves(layout((1, 1, 1, 1), data=2), layout((2, 2), data=2, apart=4)) == (
        Move(part="layer 1", source=1, target=0),
        Move(part="layer 2", source=6, target=1),
        Move(part="layer 3", source=3, target=1),
        Move(part="head", source=7, target=1),
    )


def test_parts_of_stages_in_order() -> None:
    assert stage_parts(layout((1, 2))) == (
        ("embedding", "layer 0"),
        ("layer 1", "layer 2", "head"),
    )
