"""wandb, MLflow and Trackio behind one interface. Each package is imported when its client is made."""

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from estimator.training.metrics_log import Record

PROJECT = "gpt2"
LONGEST_PARAM = 6000  # characters, MLflow's limit
METRICS_A_CALL = 1000  # MLflow's limit


class TrackerRun(NamedTuple):
    """A run as a tracker sees it.

    id: of the tracker's run, or a proposal for a new one. config: the run's settings. folder: where the tracker may
    keep its files; None if the run is in a bucket. changed: settings with other values since `step`.
    """

    id: str
    is_new: bool
    name: str
    config: dict[str, Any]
    folder: Path | None
    changed: dict[str, Any]
    step: int


class Client(Protocol):
    """A tracker's open run."""

    id: str

    def write(self, records: Sequence[Record]) -> None:
        """Sends records of ascending steps. May raise anything that the package raises."""
        ...

    def close(self) -> None:
        """Sends all that is left, and marks the run as finished."""
        ...


def values(record: Record) -> dict[str, float]:
    """The finite numbers of a record as {"split/key": number}; a missing loss, which was not finite, as a metric."""
    numbers = {key: value for key, value in record.items() if key not in ("step", "split", "time")}
    split = record["split"]
    finite = {
        f"{split}/{key}": float(value)
        for key, value in numbers.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
    not_finite = {f"{split}/{key}_is_not_finite": 1.0 for key in ("loss", "grad_norm") if numbers.get(key, 0) is None}
    return finite | not_finite


class Wandb:
    """Steps are a metric of their own: wandb drops rows whose own step is smaller than the last one's."""

    def __init__(self, run: TrackerRun):
        import wandb

        self.id = run.id
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id,
            name=os.environ.get("WANDB_NAME", run.name),
            config=run.config,
            resume="allow",
            allow_val_change=True,
            dir=str(run.folder) if run.folder and "WANDB_DIR" not in os.environ else None,
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def write(self, records: Sequence[Record]) -> None:
        for record in records:
            self._run.log({"step": record["step"], **values(record)})

    def close(self) -> None:
        self._run.finish()


class Mlflow:
    """Without MLFLOW_TRACKING_URI, the run's folder has the database."""

    def __init__(self, run: TrackerRun):
        for name, value in (("MAX_RETRIES", "1"), ("TIMEOUT", "30")):  # we try again ourselves
            os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
        from mlflow.entities import Param, RunTag
        from mlflow.tracking import MlflowClient

        own = f"sqlite:///{run.folder}/mlflow.db" if run.folder else None
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or own)
        if run.is_new:
            params = [Param(_mlflow_name(key), str(value)[:LONGEST_PARAM]) for key, value in run.config.items()]
            self.id = self._client.create_run(self._experiment(run, own), run_name=run.name).info.run_id
            for start in range(0, len(params), 100):
                self._client.log_batch(self.id, params=params[start : start + 100])
        else:
            self.id = run.id
            self._client.update_run(self.id, status="RUNNING")
            tags = [
                RunTag(_mlflow_name(f"{key}.resumed_at_{run.step}"), str(value)[:LONGEST_PARAM])
                for key, value in run.changed.items()
            ]
            if tags:
                self._client.log_batch(self.id, tags=tags)

    def _experiment(self, run: TrackerRun, own: str | None) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        if found := self._client.get_experiment_by_name(name):
            return found.experiment_id
        artifacts = None if os.environ.get("MLFLOW_TRACKING_URI") or not own else f"{run.folder}/mlflow-artifacts"
        return self._client.create_experiment(name, artifact_location=artifacts)

    def write(self, records: Sequence[Record]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(_mlflow_name(key), value, int(1000 * record["time"]), record["step"])
            for record in records
            for key, value in values(record).items()
        ]
        for start in range(0, len(metrics), METRICS_A_CALL):
            self._client.log_batch(self.id, metrics=metrics[start : start + METRICS_A_CALL])

    def close(self) -> None:
        self._client.set_terminated(self.id)


def _mlflow_name(key: str) -> str:
    """A name without the characters that MLflow refuses."""
    return re.sub(r"[^\w\-./: ]", "_", key)


class Trackio:
    """Trackio knows runs by their names, so the name ends with the id."""

    def __init__(self, run: TrackerRun):
        import trackio

        self.id = run.id
        self._trackio = trackio
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        # The config goes into the run once.
        config = {"config": run.config} if run.is_new else {}
        trackio.init(project=project, name=f"{run.name}-{run.id}", resume="allow", embed=False, **config)

    def write(self, records: Sequence[Record]) -> None:
        for record in records:
            self._trackio.log(values(record), step=record["step"])

    def close(self) -> None:
        self._trackio.finish()


CLIENTS: dict[str, Callable[[TrackerRun], Client]] = {"wandb": Wandb, "mlflow": Mlflow, "trackio": Trackio}
