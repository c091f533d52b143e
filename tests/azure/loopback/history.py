"""Run history: experiments, runs, their details and events.

Knows nothing about how a job is executed; `job.py` changes a run's status with `Runs.advance`.
"""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Callable

from . import rules
from .messages import Json, Request, Response, answer
from .refusals import Refusal, now, run_not_found
from .routes import Route
from .tenancy import API, Tenancy

HISTORY = "/history/v1.0<WS>"
EXPERIMENT = f"{HISTORY}/experiments/{{experiment}}"
RUN_PATHS = (
    f"{EXPERIMENT}/runs/{{run}}",
    f"{HISTORY}/experimentids/{{experiment_id}}/runs/{{run}}",
    f"{HISTORY}/runs/{{run}}",
)
TERMINAL = ("Completed", "Failed", "Canceled")
EVENT = "Microsoft.MachineLearning.Run."
DETAILS = """runId target status startTimeUtc endTimeUtc error warnings tags properties parameters
    inputDatasets outputDatasets runDefinition revision runNumber runUuid""".split()  # noqa: SIM905


@dataclasses.dataclass
class Run:
    """One run: the document that clients see, and what only the service knows."""

    document: Json
    experiment: str
    definition: Json | None = None
    events: list[Json] = dataclasses.field(default_factory=list)
    statuses: list[str] = dataclasses.field(default_factory=list)
    """All that it has had, in order."""

    @property
    def run_id(self) -> str:
        return str(self.document["runId"])

    @property
    def status(self) -> str:
        return str(self.document["status"])

    @property
    def is_over(self) -> bool:
        return self.status in TERMINAL

    @property
    def container(self) -> str:
        return str(self.document["dataContainerId"])


class Runs:
    """All experiments and runs. `changed` is notified whenever anything in them changes."""

    def __init__(self, tenancy: Tenancy, changed: threading.Condition) -> None:
        self.tenancy = tenancy
        self.changed = changed
        self.log_files: Callable[[Run], dict[str, str]] = lambda run: {}
        self._experiments: dict[str, Json] = {}
        self._runs: dict[str, Run] = {}

    def routes(self) -> list[Route]:
        routes = [
            Route("GET", API, EXPERIMENT, self.get_experiment),
            Route("POST", API, EXPERIMENT, self.create_experiment),
            Route("GET", API, f"{HISTORY}/experimentids/{{experiment_id}}", self.get_experiment_by_id),
        ]
        for path in RUN_PATHS:
            routes += [
                Route("GET", API, path, self.get),
                Route("PATCH", API, path, self.patch),
                Route("GET", API, f"{path}/details", self.details),
                Route("POST", API, f"{path}/events", self.event),
                Route("GET", API, f"{path}/metricsingest/wait", self.ingested),
            ]
        return routes

    # -- called by other handlers and by tests ---------------------------------------------------------

    def __getitem__(self, run_id: str) -> Run:
        return self._runs[run_id]

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._runs

    def all(self) -> list[Run]:
        with self.changed:
            return list(self._runs.values())

    def advance(self, run: Run, status: str, error: Json | None = None) -> None:
        """Give a run its next status, unless it has ended, or must end because it was cancelled."""
        with self.changed:
            if run.is_over or (run.status == "CancelRequested" and status not in TERMINAL):
                return
            run.document["status"] = status
            run.statuses.append(status)
            if status == "Running" and not run.document.get("startTimeUtc"):
                run.document["startTimeUtc"] = now()
            if status in TERMINAL:
                run.document["endTimeUtc"] = now()
            if error is not None:
                run.document["error"] = error
            self._touch(run)

    def cancel(self, run_id: str) -> None:
        """Cancel a run, as a user can in the studio."""
        self.advance(self._runs[run_id], "CancelRequested")

    def wait_for(self, run_id: str, *statuses: str, timeout: float = 120) -> Run:
        """Return a run once it has, or has had, one of the statuses.

        Raises:
            TimeoutError: it has had none of them in time.
        """
        with self.changed:

            def reached() -> bool:
                run = self._runs.get(run_id)
                return run is not None and not set(statuses).isdisjoint(run.statuses)

            if not self.changed.wait_for(reached, timeout):
                raise TimeoutError(f"run {run_id}: not {' or '.join(statuses)} after {timeout} s")
            return self._runs[run_id]

    def experiment(self, name: str) -> Json:
        """Return an experiment's document, created if missing."""
        rules.check_experiment_name(name)
        with self.changed:
            if name not in self._experiments:
                made = {"experimentId": str(uuid.uuid4()), "name": name, "createdUtc": now(), "tags": {}}
                self._experiments[name] = made
            return self._experiments[name]

    def create(self, run_id: str, experiment: str, **fields: object) -> Run:
        """Create a run, or update one that a client created before submitting it."""
        rules.check_run_id(run_id)
        with self.changed:
            run = self._runs.get(run_id)
            if run is None:
                document: Json = {
                    "runId": run_id,
                    "runNumber": len(self._runs) + 1,
                    "runUuid": str(uuid.uuid4()),
                    "rootRunId": run_id,
                    "experimentId": self.experiment(experiment)["experimentId"],
                    "dataContainerId": f"dcid.{run_id}",
                    "createdUtc": now(),
                    "status": "NotStarted",
                    "tags": {},
                    "properties": {},
                    "parameters": {},
                    "revision": 0,
                }
                run = self._runs[run_id] = Run(document, experiment, statuses=["NotStarted"])
            run.document.update(fields)
            self._touch(run)
            return run

    # -- requests --------------------------------------------------------------------------------------

    def get_experiment(self, request: Request) -> Response:
        with self.changed:
            found = self._experiments.get(request.names["experiment"])
        if found is None:
            text = f"Experiment {request.names['experiment']} is not found."
            raise Refusal(404, "UserError", text)
        return answer(found)

    def create_experiment(self, request: Request) -> Response:
        return answer(self.experiment(request.names["experiment"]))

    def get_experiment_by_id(self, request: Request) -> Response:
        with self.changed:
            for document in self._experiments.values():
                if document["experimentId"] == request.names["experiment_id"]:
                    return answer(document)
        raise Refusal(404, "UserError", f"Experiment {request.names['experiment_id']} is not found.")

    def get(self, request: Request) -> Response:
        with self.changed:
            return answer(self._find(request).document)

    def patch(self, request: Request) -> Response:
        sent = {name: value for name, value in request.json().items() if value is not None}
        with self.changed:
            run_id = request.names["run"]
            if run_id not in self._runs and "experiment" in request.names:
                self.create(run_id, request.names["experiment"])
            run = self._find(request)
            for field in ("tags", "properties"):
                before = run.document.get(field) or {}
                for key, value in (sent.get(field) or {}).items():
                    if field == "properties" and before.get(key, value) != value:
                        raise Refusal(400, "UserError", f"Property {key} of the run exists; it is immutable.")
                sent[field] = {**before, **(sent.get(field) or {})}
            rules.check_run_document(sent)
            run.document.update(sent)
            self._touch(run)
            return answer(run.document)

    def details(self, request: Request) -> Response:
        with self.changed:
            run = self._find(request)
            document = {name: run.document.get(name) for name in DETAILS}
            document["createdTimeUtc"] = run.document["createdUtc"]
        return answer({**document, "logFiles": self.log_files(run)})

    def event(self, request: Request) -> Response:
        event = request.json()
        with self.changed:
            run = self._find(request)
            run.events.append(event)
            name, data = str(event.get("name")), event.get("data") or {}
            if name == f"{EVENT}Error":
                run.document["error"] = data.get("ErrorResponse") or data.get("errorResponse")
            elif name == f"{EVENT}Warning":
                warning = {"source": data.get("Source"), "message": data.get("Message")}
                run.document["warnings"] = [*(run.document.get("warnings") or []), warning]
            elif name == f"{EVENT}Canceled":
                self.advance(run, "Canceled")
            elif run.definition is None and name.removeprefix(EVENT) in {"Start", "Completed", "Failed"}:
                status = name.removeprefix(EVENT)
                self.advance(run, "Running" if status == "Start" else status)
            self._touch(run)
        return answer()

    def ingested(self, request: Request) -> Response:
        self._find(request)
        return answer()

    def _find(self, request: Request) -> Run:
        run = self._runs.get(request.names["run"])
        if run is None:
            raise run_not_found(request.names["run"])
        return run

    def _touch(self, run: Run) -> None:
        run.document["revision"] += 1
        run.document["lastModifiedUtc"] = now()
        self.changed.notify_all()
