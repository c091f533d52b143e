"""Why a run failed, in the shapes that the real service was seen to store (azure-ml-recorded.json)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .node_logs import IMAGE_LOG
from .refusals import now
from .tenancy import LOCATION

if TYPE_CHECKING:
    from .messages import Json

NO_TIME = "0001-01-01T00:00:00.000Z"
JOB_FAILED = (
    "AzureMLCompute job failed.\nJobFailed: Submitted script failed with a non-zero exit code; "
    "see the driver log file for details."
)
"""What the service says of every script that fails: neither the exit code nor a line of the log."""


def user_program(reported: Json) -> Json:
    """Return the error of a script that raised, from the event with which the SDK reports it."""
    said = reported.get("error") or {}
    names = ("code", "message", "detailsUri")
    given = {name: said[name] for name in names if said.get(name) is not None}
    origin: Json = dict.fromkeys(("correlation", "environment", "location", "componentName"))
    return {"error": _root(messageParameters={}, **given), **origin, "time": NO_TIME}


def job_failed() -> Json:
    """Return the error of a script that ended with a non-zero exit code and reported nothing."""
    return _envelope(_root(message=f"{JOB_FAILED}\n\tReason: Job failed with non-zero exit Code"))


def user_process(command: str, code: int, log: str) -> Json:
    """Return the error of a job of SDK v2 whose command ended with a non-zero exit code.

    The runtime of such jobs quotes the end of the log; its text was seen, and its envelope was not.
    """
    ended = f"Execution failed. User process {command.partition(' ')[0]!r} exited with status code {code}."
    return _envelope(_root(message=f"{ended}\nError: {log.strip()[-1000:]}"))


def secondary_warning() -> Json:
    """Return the warning beside a script's own error. Its message is a whole error as JSON."""
    return {"source": "SecondaryError", "message": json.dumps(_envelope(_root(message=JOB_FAILED)), indent=2)}


def image_build() -> Json:
    """Return the error of an image that can't be built. Only the log has the cause."""
    form = "Image build failed. For more details, check log file {ArtifactPath}."
    error = _root(
        message=form.format(ArtifactPath=IMAGE_LOG),
        messageFormat=form,
        messageParameters={"ArtifactPath": IMAGE_LOG},
        innerError={"code": "BadArgument", "innerError": None},
    )
    return _envelope(error)


def of_service(message: str, inner: str | None = None, code: str = "UserError") -> Json:
    """Return any other error of a run; no recording shows its shape."""
    return _envelope(
        _root(code=code, message=message, innerError={"code": inner, "innerError": None} if inner else None)
    )


def _root(**given: Any) -> Json:
    absent = "severity messageFormat messageParameters referenceCode detailsUri target innerError".split()  # noqa: SIM905
    root: Json = {"code": "UserError", **dict.fromkeys(absent), "details": [], **given}
    root["message"] = str(root.get("message") or "")[:3000]
    return root | {"debugInfo": None, "additionalInfo": None}


def _envelope(root: Json) -> Json:
    return {
        "error": root,
        "correlation": {"operation": None, "request": None},
        "environment": LOCATION,
        "location": LOCATION,
        "time": now(),
        "componentName": "execution-worker",
    }
