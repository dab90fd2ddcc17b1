"""Models timed in turns: the order, the end of the rounds, copies, and a machine that is busy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headstart.deployment import timing
from headstart.deployment.timing import time_in_turns, why_busy
from headstart.evaluation.statistics import median_interval
from headstart.rundir.run import Run, open_run
from tests.fabricating import recost
from tests.unit.test_explain import plant

Clock = Callable[[str, int], float]  # a network's name and the number of its calls to milliseconds


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Two networks, and a copy of the first with other weights."""
    made = []
    for name, macs in (("net", 300), ("other", 200), ("net-tuned", 300)):
        run = plant(tmp_path, name)
        made.append(recost(run, macs=macs, file_mb=10.0))
    return made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Clock, float], list[str]]:
    """Put a clock of our own in the place of models; gives the names in the order of the calls."""

    def install(clock: Clock, left: float) -> list[str]:
        order: list[str] = []

        def call(name: str, side: int, batch: int) -> float:
            if batch > 1:
                return 100.0
            order.append(name)
            return clock(name, order.count(name))

        monkeypatch.setattr(timing, "as_served", lambda run: open_run(run.path).name)
        monkeypatch.setattr(timing, "milliseconds", call)
        monkeypatch.setattr(timing, "_warm_up", lambda run, until: None)
        monkeypatch.setattr(timing.Cores, "look", lambda self: None)
        monkeypatch.setattr(timing.Cores, "left", left)
        monkeypatch.setattr(timing, "TURN_S", 0.0)
        monkeypatch.setattr(timing, "MOST_S", np.inf)
        monkeypatch.setattr(timing, "MOST_S_SLOW", np.inf)
        return order

    return install


def test_models_take_turns_until_they_are_steady_and_copies_are_one(
    runs: list[Run], asked: Callable[[Clock, float], list[str]]
) -> None:
    order = asked(lambda name, call: {"net": 10.0, "other": 5.0}[name] + call % 2 / 10, 1.0)
    net, other, tuned = time_in_turns(runs, 0.0)
    assert order == ["net", "other"] * timing.FEWEST_ROUNDS
    assert net == tuned
    assert net.latency_ms.median == pytest.approx(10.05)
    assert (other.latency_ms.low, other.latency_ms.high) == (5.0, 5.1)
    assert net.session == other.session
    assert net.busy is None
    assert net.throughput.images_per_s == pytest.approx(320.0)


def test_times_that_do_not_settle_are_marked(
    runs: list[Run], asked: Callable[[Clock, float], list[str]]
) -> None:
    """One network is steady from its third call on, the other never."""
    slow_start = asked(lambda name, call: 40.0 if name == "net" and call < 3 else 10.0, 1.0)
    found = time_in_turns(runs, 0.0)
    assert timing.FEWEST_ROUNDS < slow_start.count("net") < timing.MOST_ROUNDS
    assert all(each.busy is None for each in found)
    restless = asked(lambda name, call: 10.0 + (name == "net") * 7 * (call % 2), 1.0)
    net, other, _ = time_in_turns(runs, 0.0)
    assert restless.count("net") == timing.MOST_ROUNDS
    assert "not steady" in net.busy
    assert other.busy is None


def test_a_machine_whose_cores_others_have_is_marked_at_once(
    runs: list[Run], asked: Callable[[Clock, float], list[str]]
) -> None:
    order = asked(lambda name, call: 10.0 * call, 0.5)
    found = time_in_turns(runs, 0.0)
    assert order.count("net") == timing.FEWEST_ROUNDS
    assert {each.busy for each in found} == {"other processes left 50% of the cores' time"}
    assert why_busy(1.0, steady=True) is None


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "200000 100000\n"}, 2.0),
        ({"cpu.max": "max 100000\n"}, np.inf),
        ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, np.inf),
        ({"cpu.max": "damaged"}, np.inf),
        ({}, np.inf),
    ],
)
def test_a_containers_quota_is_read(tmp_path: Path, files: dict[str, str], cores: float) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert timing.cores_granted(tmp_path) == cores


def test_what_a_quota_withholds_was_taken_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores of sixteen are granted, and all of their time was ours."""
    clock = {"wall": 0.0}

    def now() -> float:
        clock["wall"] += 0.01
        return clock["wall"]

    monkeypatch.setattr(timing, "cores_granted", lambda: 2.0, raising=False)
    monkeypatch.setattr(timing, "usable_cores", lambda: 16)
    monkeypatch.setattr(timing.time, "perf_counter", now)
    monkeypatch.setattr(timing.time, "process_time", lambda: 2 * clock["wall"])
    cores = timing.Cores()
    cores.look()
    assert cores.left == pytest.approx(1.0)


def test_the_interval_of_a_median_covers_it() -> None:
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert median_interval(list(range(6))) == (0, 5)
    assert median_interval(list(range(10))) == (1, 8)  # 97.9 %; (2, 7) would be 89.1 %
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        low, high = median_interval(rng.exponential(size=15).tolist())
        covered += low <= np.log(2) <= high
    assert covered / 2000 > 0.94
