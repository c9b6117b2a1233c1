"""A number without its unit is refused in files and overrides, and only there."""

import pytest

from scenarios.errors import ScenarioError
from scenarios.loader import load
from scenarios.schema import Link


@pytest.mark.parametrize(
    ("name", "override", "example"),
    [
        ("local-2rank", "cluster.intra_node.bandwidth=300", "200 Gbit/s"),
        ("local-2rank", "cluster.intra_node.latency=8", "18.522 ms"),
        ("megatron/175b", "training.device_mtbf=50700", "1.5 h"),
        ("local-2rank", "cluster.device.memory=80", "80 GiB"),
        ("megatron/175b", "cluster.price_per_device_hour=1.45", "as `$1.45/h`"),
        ("megatron/175b", "cluster.price_per_device_hour=-2", "as `$2.10/h`"),
        ("replay/stage-times", "costs.forward=18", "18.522 ms"),
    ],
)
def test_bare_numbers_are_refused(name: str, override: str, example: str) -> None:
    with pytest.raises(ScenarioError, match=r"has no unit") as caught:
        load(name, (override,))
    assert example in str(caught.value)


def test_zero_counts_and_objects_made_in_python_need_no_unit() -> None:
    assert load("replay/stage-times", ("costs.send=0",)).scenario.costs is not None
    training = load("megatron/175b", ("training.tokens=1e9",)).scenario.training
    assert training is not None and training.tokens == 10**9
    assert Link(bandwidth=3e9, latency=8_000).latency == 8_000
