"""What the tests of tracking share."""

from __future__ import annotations

from typing import Any

from tests.conftest import Outcome


def tracked_runs(uri: str, experiment: str) -> list[Any]:
    """The runs of an experiment, as MLflow's own client reads them."""
    import mlflow

    client = mlflow.MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id]))


def error_line(outcome: Outcome) -> str:
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    return line
