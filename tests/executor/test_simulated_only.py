"""Plans that only the simulator knows are refused in words; exchanged messages run."""

from __future__ import annotations

import pytest

from executor.commands import UnsupportedPlan, require_supported
from scenarios.loader import load


def test_what_only_the_simulator_knows_is_refused() -> None:
    alone = load("local-2rank", ["model.ends=false"]).scenario
    with pytest.raises(UnsupportedPlan, match="`ends: true` would work"):
        require_supported(alone)
    one_copy = load("local-tp2-pp2", ["plan.broadcast_messages=true"]).scenario
    with pytest.raises(UnsupportedPlan, match="`scatter_gather: true` in its place would work"):
        require_supported(one_copy)
    first = ["plan.frozen_layers=1", "plan.frozen_first=true"]
    with pytest.raises(UnsupportedPlan, match="`frozen_first: false` would work"):
        require_supported(load("local-2rank", first).scenario)


def test_exchanged_messages_are_supported() -> None:
    require_supported(load("local-2rank", ["plan.p2p=exchange"]).scenario)
    require_supported(load("local-2rank", ["plan.broadcast_messages=true"]).scenario)
