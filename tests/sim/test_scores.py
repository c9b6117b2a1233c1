"""Scores, computed by hand."""

import pytest

from sim.scores import score

# (what, predicted, measured) of two models a and b; the second plan of a was run twice.
POINTS = [
    ("a1", 10.0, 10.0),
    ("a2", 9.0, 12.0),
    ("a2 again", 9.0, 10.0),
    ("a3", 20.0, 16.0),
    ("b1", 40.0, 50.0),
    ("b2", 44.0, 40.0),
    ("b3", 60.0, 60.0),
    ("c", 5.0, 5.0),
]
GROUPS = ["a", "a", "a", "a", "b", "b", "b", "c"]
PLANS = [1, 2, 2, 3, 1, 2, 3, 1]


def test_errors_are_over_all_points() -> None:
    found = score(POINTS, groups=GROUPS, plans=PLANS)
    # -25 %, -10 %, +25 %, -20 %, +10 %, and three exact ones.
    assert found["n"] == 8
    assert found["mape"] == pytest.approx(0.9 / 8)
    assert found["bias"] == pytest.approx(-0.2 / 8)
    assert found["worst"] == pytest.approx(0.25)


def test_tau_and_regret_are_within_groups_and_replicates_count_once() -> None:
    found = score(POINTS, groups=GROUPS, plans=PLANS)
    # a: (10, 10), (9, 11), (20, 16): pair 1-2 wrong, 1-3 and 2-3 right.
    # b: (40, 50), (44, 40), (60, 60): pair 1-2 wrong, the others right. c has a single plan.
    assert found["num_groups"] == 2
    assert found["kendall_tau"] == pytest.approx((4 - 2) / 6)
    assert found["kendall_tau_mean"] == pytest.approx((1 / 3 + 1 / 3) / 2)
    # a: plan 2 is picked, 11 instead of 10; b: plan 1, 50 instead of 40.
    assert found["regret"] == pytest.approx((0.1 + 0.25) / 2)
    assert found["regret_worst"] == pytest.approx(0.25)


def test_beside_them_the_plain_ones() -> None:
    apart = score(POINTS)
    # Without groups the pick is c, the fastest of all, and every point is a plan.
    assert apart["num_groups"] == 1 and apart["regret"] == 0 == apart["regret_all"]
    assert score(POINTS, groups=GROUPS)["kendall_tau_all"] == apart["kendall_tau"]
    # Seven plans, the replicates being one, in 21 pairs: only a1-a2 and b1-b2 are wrong.
    found = score(POINTS, groups=GROUPS, plans=PLANS)
    assert found["kendall_tau_all"] == pytest.approx((19 - 2) / 21)


def test_predicted_ties_are_neither_right_nor_wrong_and_cost_the_mean_regret() -> None:
    found = score([("x", 5.0, 4.0), ("y", 5.0 * (1 + 1e-15), 6.0)])
    assert found["kendall_tau"] == 0
    assert found["regret"] == pytest.approx(0.25)


def test_measured_ties_are_no_pairs() -> None:
    found = score([("x", 5.0, 4.0), ("y", 6.0, 4.0)])
    assert found["kendall_tau"] is None and found["regret"] == 0


def test_groups_of_one_plan_each_are_scored_as_one() -> None:
    found = score([("x", 5.0, 4.0), ("y", 6.0, 5.0)], groups=["x", "y"])
    assert found["num_groups"] == 0 and found["kendall_tau"] == 1


def test_the_mean_tau_counts_groups_alike() -> None:
    points = [("x", float(i), float(i)) for i in range(1, 4)] + [("y", 1.0, 2.0), ("y", 2.0, 1.0)]
    found = score(points, groups=["x"] * 3 + ["y"] * 2)
    assert found["kendall_tau"] == pytest.approx((3 - 1) / 4) and found["kendall_tau_mean"] == 0


def test_no_points() -> None:
    found = score([])
    assert found["n"] == 0
    assert all(found[name] is None for name in ("mape", "bias", "worst", "kendall_tau"))
    assert found["regret"] is None and found["regret_worst"] is None
