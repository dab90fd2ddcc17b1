"""Solved heads: the optimum, whatever the features' scale, and a sensible path to it."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from headstart.training import lbfgs, solver, tables
from headstart.training.optimisation import class_weights
from headstart.training.solver import Joined, Table, solve_path


@pytest.fixture(scope="module")
def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 30, generator=generator)
    labels = torch.arange(600) % 4
    x = centres[labels] + 1.5 * torch.randn(600, 30, generator=generator)
    # Badly conditioned on purpose: scales from 0.1 to 10, two columns nearly equal, one constant.
    x *= torch.logspace(-1, 1, 30)
    x[:, 1] = x[:, 0] + 1e-5 * x[:, 1]
    x[:, 2] = 7.0
    return x[:400], labels[:400], x[400:], labels[400:]


def scaled(x: torch.Tensor) -> torch.Tensor:
    """Centred features over the root of their variance and the squared mean deviation: float64."""
    x = x.double()
    deviation = x.std(dim=0, correction=0)
    return (x - x.mean(dim=0)) / (deviation.square() + deviation.mean().square()).sqrt()


@pytest.mark.parametrize("l2", [1.0, 0.01])
def test_it_is_the_optimum_that_scikit_learn_finds(
    problem: tuple[torch.Tensor, ...], l2: float
) -> None:
    x, y, x_val, y_val = problem
    (solution,) = solve_path(Table(x, y), Table(x_val, y_val), 4, l2_path=[l2])
    z = scaled(x)
    reference = LogisticRegression(C=1 / (l2 * len(z)), tol=1e-10, max_iter=10_000).fit(z, y)
    expected = torch.from_numpy(reference.decision_function(z))
    got = (x @ solution.weight.T + solution.bias).double()
    difference = (got - got.mean(1, keepdim=True)) - (expected - expected.mean(1, keepdim=True))
    assert difference.abs().max() < 0.02
    loss = float(torch.nn.functional.cross_entropy(expected, y))
    assert solution.train_loss == pytest.approx(loss, abs=2e-4)


@pytest.mark.parametrize("n", [6, 20])
def test_fewer_images_than_features(problem: tuple[torch.Tensor, ...], n: int) -> None:
    x, y, x_val, y_val = problem
    (solution,) = solve_path(Table(x[:n], y[:n]), Table(x_val, y_val), 4, l2_path=[0.1])
    z = scaled(x[:n])
    reference = LogisticRegression(C=1 / (0.1 * n), tol=1e-10, max_iter=10_000).fit(z, y[:n])
    loss = float(
        torch.nn.functional.cross_entropy(torch.from_numpy(reference.decision_function(z)), y[:n])
    )
    assert solution.train_loss == pytest.approx(loss, abs=2e-4)


def test_a_feature_that_hardly_varies_gets_no_enormous_weight(
    problem: tuple[torch.Tensor, ...],
) -> None:
    """One that is dead but for a thousandth: fitted freely, an image that shows it has a logit in
    the hundreds, and that image alone chooses the penalty."""
    x, y, x_val, y_val = (part.clone() for part in problem)
    generator = torch.Generator().manual_seed(1)
    x[:, 2] = 1e-3 * torch.rand(len(x), generator=generator)
    x[:4, 2] += 5e-3 * (y[:4] == 0)
    x_val[:, 2], x_val[0, 2] = 0.0, 5.0
    path = solve_path(Table(x, y), Table(x_val, y_val), 4)
    best = next(s for s in path if s.chosen)
    norms = best.weight.norm(dim=0)
    assert norms[2] < 3 * norms.median()
    assert (x_val @ best.weight.T + best.bias).abs().max() < 50


def test_one_image_does_not_choose_the_penalty(problem: tuple[torch.Tensor, ...]) -> None:
    """A wrong label on an image that lies a hundred times as far out as the others."""
    x, y, x_val, y_val = problem
    path = solve_path(Table(x, y), Table(x_val, y_val), 4)
    chosen = next(s.l2 for s in path if s.chosen)
    far, wrong = torch.cat([x_val, 100 * x_val[:1]]), torch.cat([y_val, (y_val[:1] + 1) % 4])
    path = solve_path(Table(x, y), Table(far, wrong), 4)
    assert next(s.l2 for s in path if s.chosen) <= 4 * chosen


def test_tables_are_joined_without_a_copy(problem: tuple[torch.Tensor, ...]) -> None:
    x, y, x_val, y_val = problem
    val = Table(x_val, y_val)
    (whole,) = solve_path(Table(x, y), val, 4, l2_path=[0.1])
    parts = Joined((Table(x[:150], y[:150]), Table(x[150:], y[150:])))
    (joined,) = solve_path(parts, val, 4, l2_path=[0.1])
    assert joined.val_loss == pytest.approx(whole.val_loss, abs=1e-4)


def test_degenerate_features_are_no_crash() -> None:
    same = torch.ones(18, 64)
    labels = torch.arange(18) % 2
    (solution,) = solve_path(Table(same, labels), Table(same, labels), 2, l2_path=[0.1])
    assert solution.train_loss == pytest.approx(math.log(2), abs=1e-3)


def test_the_path_runs_from_strong_to_weak_and_stops_past_the_best(
    problem: tuple[torch.Tensor, ...],
) -> None:
    x, y, x_val, y_val = problem
    seen: list[float] = []
    solutions = solve_path(
        Table(x, y), Table(x_val, y_val), 4, on_solution=lambda s: seen.append(s.l2)
    )
    *path, refined = seen
    assert path == [s.l2 for s in solutions] == sorted(path, reverse=True)
    assert [s.l2 for s in solutions if s.chosen] == [refined]
    losses = [s.train_loss for s in solutions]
    assert losses == sorted(losses, reverse=True)
    best = min(range(len(solutions)), key=lambda i: solutions[i].val_loss)
    assert best < len(solutions) - 1
    assert solutions[best].val_accuracy > 0.6


def test_warm_starts_change_the_cost_and_not_the_answer(problem: tuple[torch.Tensor, ...]) -> None:
    x, y, x_val, y_val = problem
    path = solve_path(Table(x, y), Table(x_val, y_val), 4, l2_path=[1.0, 0.3, 0.1])
    (cold,) = solve_path(Table(x, y), Table(x_val, y_val), 4, l2_path=[0.1])
    assert path[-1].val_loss == pytest.approx(cold.val_loss, abs=1e-3)


def test_without_a_penalty_constant_features_say_nothing(
    problem: tuple[torch.Tensor, ...],
) -> None:
    (solution,) = solve_path(Table(*problem[:2]), Table(*problem[2:]), 4, l2_path=[0.0])
    assert torch.isfinite(solution.weight).all()
    assert solution.weight[:, 2].abs().max() < 1e-4
    assert solution.train_accuracy > 0.9


def test_class_weights_are_scikit_learns(problem: tuple[torch.Tensor, ...]) -> None:
    x, y, x_val, y_val = problem
    kept = torch.cat([torch.arange(len(y))[y != 0], torch.arange(len(y))[y == 0][:12]])
    x, y = x[kept], y[kept]
    weights = class_weights(y.numpy(), 4)
    (solution,) = solve_path(
        Table(x, y), Table(x_val, y_val), 4, l2_path=[0.1], class_weights=weights
    )
    z = scaled(x)
    reference = LogisticRegression(
        C=1 / (0.1 * len(z)), class_weight="balanced", tol=1e-10, max_iter=10_000
    ).fit(z, y)
    expected = torch.from_numpy(reference.decision_function(z))
    got = (x @ solution.weight.T + solution.bias).double()
    difference = (got - got.mean(1, keepdim=True)) - (expected - expected.mean(1, keepdim=True))
    assert difference.abs().max() < 0.02
    (plain,) = solve_path(Table(x, y), Table(x_val, y_val), 4, l2_path=[0.1])
    assert (plain.weight - solution.weight).abs().max() > 0.01


def test_blocks_of_rows_are_the_whole_table(
    problem: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y, x_val, y_val = problem
    (whole,) = solve_path(Table(x, y), Table(x_val, y_val), 4, l2_path=[0.1])
    monkeypatch.setattr(tables, "BLOCK", 64)
    released: list[bool] = []
    table = Table(x, y, lambda: released.append(True))
    (blocked,) = solve_path(table, Table(x_val, y_val), 4, l2_path=[0.1])
    assert len(released) == 7 * (blocked.iterations + 2)  # and two for means and eigenvectors
    assert blocked.val_loss == pytest.approx(whole.val_loss, abs=1e-4)
    assert torch.allclose(blocked.weight, whole.weight, rtol=0.02, atol=1e-3)


def test_the_best_of_a_path_is_as_exact_as_one_alone(problem: tuple[torch.Tensor, ...]) -> None:
    x, y, x_val, y_val = problem
    path = solve_path(Table(x, y), Table(x_val, y_val), 4, l2_path=[1.0, 0.3, 0.1, 0.03, 0.01])
    best = next(s for s in path if s.chosen)
    assert best.val_loss == pytest.approx(min(s.val_loss for s in path), abs=5e-3)
    (alone,) = solve_path(Table(x, y), Table(x_val, y_val), 4, l2_path=[best.l2])
    assert alone.chosen
    assert best.val_loss == pytest.approx(alone.val_loss, abs=2e-4)


def test_the_memory_is_that_of_two_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the recursion of Nocedal & Wright (2006, algorithm 7.5), pair by pair."""
    monkeypatch.setattr(lbfgs, "MEMORY", 5)
    generator = torch.Generator().manual_seed(0)
    hessian = torch.randn(12, 12, generator=generator)
    hessian = hessian @ hessian.T + torch.eye(12)
    bound, penalty = torch.rand(4, generator=generator) + 1, torch.tensor([0.3, 0.3, 0.3, 0.0])
    memory = lbfgs.LbfgsMemory(torch.zeros(3, 4))
    pairs = []
    for _ in range(7):
        step = torch.randn(3, 4, generator=generator)
        change = (hessian @ step.view(-1)).view(3, 4)
        memory.add(step, change)
        pairs = [*pairs, (step, change + penalty * step)][-5:]
    gradient = torch.randn(3, 4, generator=generator)
    q, shares = gradient.clone(), []
    for s, y in reversed(pairs):
        shares.append((s * q).sum() / (s * y).sum())
        q -= shares[-1] * y
    s, y = pairs[-1]
    q = q / bound * (s * y).sum() / (y * y / bound).sum()
    for (s, y), share in zip(pairs, reversed(shares), strict=True):
        q += (share - (y * q).sum() / (s * y).sum()) * s
    assert torch.allclose(memory.inverse_hessian(gradient, penalty, bound), q, rtol=1e-3, atol=1e-5)


def test_a_fine_grid_is_filled_in_between(problem: tuple[torch.Tensor, ...]) -> None:
    train, val = Table(*problem[:2]), Table(*problem[2:])
    grid = [10 ** (0.5 - 0.1 * k) for k in range(66)]
    order: list[float] = []
    path = solve_path(train, val, 4, l2_path=grid, on_solution=lambda s: order.append(s.l2))
    assert [s.l2 for s in path] == sorted(order[:-1], reverse=True)
    assert order[:-1] != sorted(order[:-1], reverse=True)  # coarse to fine
    assert len(path) < len(grid)  # what lies beyond the turn of validation is left out
    assert sum(s.chosen for s in path) == 1
    best = next(s for s in path if s.chosen)
    for solution in path[::4]:
        (alone,) = solve_path(train, val, 4, l2_path=[solution.l2])
        near = solution.val_loss < 1.1 * best.val_loss or solution.l2 > best.l2
        assert solution.val_loss == pytest.approx(alone.val_loss, abs=2e-3 if near else 5e-3)


def test_a_solution_that_ran_out_of_passes_says_so(
    problem: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y, x_val, y_val = problem
    tables = Table(x, y), Table(x_val, y_val)
    for passes, cut_off in ((3, True), (200, False)):
        monkeypatch.setattr(solver, "MAX_PASSES", passes)
        (solution,) = solve_path(*tables, 4, l2_path=[0.01])
        assert solution.cut_off is cut_off
        assert solution.iterations <= passes
