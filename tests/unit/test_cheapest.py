"""Which configuration is the cheapest to serve, and when nothing may be called so."""

from __future__ import annotations

import pytest

from headstart.comparison.cheapest import Priced, find_cheapest, latency_of
from headstart.rundir.records import LatencyMs
from tests.fabricating import cost_of, measured


def priced(
    name: str,
    ms: float | None,
    macs: int = 300_000_000,
    parameters: int = 3_000_000,
    *,
    spread: float = 0.01,
    session: str | None = "one",
    busy: str | None = None,
    runs: int = 1,
) -> Priced:
    """A configuration whose runs took `ms`, each way uncertain by a share of `spread`."""
    latency = None
    if ms is not None:
        latency = LatencyMs(ms, ms * (1 - spread), ms * (1 + spread), p95=2 * ms, n=50)
    cost = cost_of(macs=macs, parameters=parameters, latency_ms=latency,
                   measured=measured(session, busy))  # fmt: skip
    return name, [cost] * runs


def test_the_quickest_beyond_noise_is_the_cheapest() -> None:
    found = find_cheapest([priced("a", 9.0), priced("b", 4.0, 900_000_000), priced("c", 6.0)])
    assert found is not None
    assert (found.name, found.by, found.beyond_noise) == ("b", "time", True)
    assert found.text == "b (4.0 ms an image) is the cheapest of them"


@pytest.mark.parametrize(("ms", "spread"), [(4.3, 0.0), (6.0, 0.3)])
def test_times_within_noise_leave_it_to_operations(ms: float, spread: float) -> None:
    """No latency is known to 5 %, whatever its rounds say; and an interval may be wider."""
    found = find_cheapest(
        [
            priced("a", ms, 200_000_000, spread=spread),
            priced("b", 4.0, 300_000_000),
            priced("c", 20.0, 1_000_000),
        ]
    )
    assert found is not None
    assert (found.name, found.by, found.beyond_noise) == ("a", "operations", False)
    assert found.text == (
        "a (200 million MACs an image) is the cheapest of them by operations: "
        "its time cannot be told from that of b"
    )


def test_equal_operations_leave_it_to_parameters() -> None:
    found = find_cheapest(
        [priced("a", 4.0, parameters=5_000_000), priced("b", 4.1, parameters=4_000_000)]
    )
    assert found is not None
    assert (found.name, found.by) == ("b", "parameters")
    assert "4.0 million parameters" in found.text


def test_a_copy_of_a_network_is_never_cheaper_by_time() -> None:
    """Whatever the clock says of two that compute the same."""
    copies = [priced("net", 9.0), priced("net-tuned", 4.0)]
    found = find_cheapest(copies)
    assert found is not None
    assert (found.name, found.by) == (None, None)
    assert found.text == "they compute the same, so none of them is the cheapest"
    found = find_cheapest([*copies, priced("other", 30.0, 100_000_000)])
    assert found is not None
    assert (found.names, found.by, found.beyond_noise) == (("net", "net-tuned"), "time", False)
    assert found.text.endswith("are the cheapest of them and cost the same")


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (priced("b", 40.0, 500_000_000, busy="others"), "the machine was too busy to time them"),
        (priced("b", 40.0, 500_000_000, session="two"), "they were not timed side by side"),
        (priced("b", 40.0, 500_000_000, session=None), "they were not timed side by side"),
        (priced("b", None, 500_000_000), "not all of them were timed"),
    ],
)
def test_times_that_cannot_be_compared_are_not(other: Priced, reason: str) -> None:
    found = find_cheapest([priced("a", 4.0), other])
    assert found is not None
    assert (found.name, found.by, found.beyond_noise) == ("a", "operations", False)
    assert found.text.endswith(f"by operations: {reason}")


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert find_cheapest([priced("a", 4.0)]) is None
    assert find_cheapest([]) is None


def test_the_latency_of_several_runs_is_their_mean_and_each_has_to_know_it() -> None:
    (_, first), (_, second) = priced("a", 4.0), priced("a", 6.0)
    found = latency_of([*first, *second])
    assert found is not None
    assert (found.median, found.low, found.high) == pytest.approx((5.0, 4.75, 5.25))
    assert latency_of([*first, cost_of(latency_ms=None)]) is None
    assert latency_of([]) is None
