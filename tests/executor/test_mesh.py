"""World ranks by place, and the groups along each dimension."""

import pytest

from executor.mesh import Mesh, Place
from scenarios.schema import Plan


def test_tensor_ranks_are_neighbours_unless_placed_otherwise() -> None:
    mesh = Mesh.of(Plan(pipeline=2, data=2, tensor=2))
    assert mesh.places[1] == Place(pipeline=0, data=0, tensor=1)
    assert mesh.places[2] == Place(pipeline=0, data=1, tensor=0)
    assert mesh.families("tensor") == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert mesh.families("data") == ((0, 2), (1, 3), (4, 6), (5, 7))
    assert mesh.families("pipeline") == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert mesh.families("pipeline", "tensor") == ((0, 1, 4, 5), (2, 3, 6, 7))
    assert mesh.families("pipeline", "data", "tensor") == (tuple(range(8)),)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(pipeline=3, data=2, tensor=4),
        Plan(pipeline=3, data=2, tensor=4, placement="pipeline-data-tensor"),
        Plan(pipeline=2, data=1, tensor=2, devices=(3, 1, 0, 2)),
    ],
)
def test_every_place_has_the_rank_that_the_plan_gives_it(plan: Plan) -> None:
    mesh = Mesh.of(plan)
    assert len(mesh.ranks) == len(mesh.places) == plan.num_devices
    for place, rank in mesh.ranks.items():
        assert rank == plan.device_of(*place)
        assert mesh.places[rank] == place


def test_members_are_ordered_by_their_place_and_not_by_their_number() -> None:
    mesh = Mesh.of(Plan(pipeline=4, devices=(2, 0, 3, 1)))
    assert mesh.along(0, "pipeline") == (2, 0, 3, 1)
    assert mesh.along(0) == (0,)


def test_pairs_are_those_of_every_replica_and_tensor_index() -> None:
    mesh = Mesh.of(Plan(pipeline=3, data=2))
    assert set(mesh.world_pairs([(0, 1), (2, 1)])) == {(0, 2), (4, 2), (1, 3), (5, 3)}
