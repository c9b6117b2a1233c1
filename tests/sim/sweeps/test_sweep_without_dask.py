"""Without dask a cluster cannot be used, and what would do instead is said."""

from __future__ import annotations

import sys

import pytest

from sim.sweeps.cluster import on_cluster
from sim.sweeps.space import SweepError


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SweepError, match=r"pip install 'pipetwin\[cluster\]'.*--shard"):
        on_cluster("tcp://127.0.0.1:8786")
