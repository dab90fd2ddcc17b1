"""Rows worth looking at are the ones that their names promise."""

from __future__ import annotations

import numpy as np

from headstart.evaluation.metrics import confusion_matrix
from headstart.evaluation.notable import confident_mistakes, confused_pairs, least_certain
from headstart.evaluation.predictions import Predictions
from tests.unit.test_metrics import random_predictions


def test_mistakes_come_surest_first() -> None:
    p = random_predictions(5)
    rows = confident_mistakes(p, 10)
    sure = p.probabilities[rows, p.predicted[rows]]
    assert len(rows) == 10
    assert not p.correct[rows].any()
    assert (np.diff(sure) <= 0).all()
    assert sure[0] == p.probabilities.max(axis=1)[~p.correct].max()


def test_close_calls_have_the_narrowest_margins() -> None:
    p = random_predictions(6)
    ordered = np.sort(p.probabilities, axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    rows = least_certain(p, 12)
    assert np.array_equal(margins[rows], np.sort(margins)[:12])
    assert p.correct[rows].any() and not p.correct[rows].all()


def test_confused_pairs_are_those_of_the_confusion_matrix() -> None:
    p = random_predictions(7)
    rows = confused_pairs(p, 6, 6)
    assert not p.correct[rows].any()
    confusion = confusion_matrix(p)
    both = confusion + confusion.T
    counted = sorted((int(both[a, b]) for a in range(7) for b in range(a)), reverse=True)
    pairs = [frozenset({int(p.labels[row]), int(p.predicted[row])}) for row in rows]
    order = list(dict.fromkeys(pairs))
    assert [int(both[tuple(pair)]) for pair in order] == counted[:6]
    for pair in order:
        places = [place for place, other in enumerate(pairs) if other == pair]
        assert places == list(range(places[0], places[0] + min(6, int(both[tuple(pair)]))))
        own = rows[places]
        assert (np.diff(p.probabilities[own, p.predicted[own]]) <= 0).all()
    # Either way round: some pair shows mistakes of both kinds.
    asked = {(int(p.labels[row]), int(p.predicted[row])) for row in rows}
    assert any((b, a) in asked for a, b in asked)


def test_without_mistakes_there_is_no_pair() -> None:
    labels = np.arange(5)
    p = Predictions(labels.astype(str), labels, np.eye(5, dtype=np.float32))
    assert len(confused_pairs(p, 6, 6)) == len(confident_mistakes(p, 6)) == 0
    assert confused_pairs(p, 6, 6).dtype == np.int64
