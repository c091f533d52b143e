"""Turns what is known of a run into HTML."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn.backend import Status
from mnist_cnn.config import DataConfig, ModelConfig, Numerics, RunConfig, TrainConfig
from mnist_cnn.hints import command_line
from mnist_cnn.redaction import redact
from mnist_cnn.result import describe_epochs, percent
from mnist_cnn.run_folder import now
from mnist_cnn.run_page import charts, facts
from mnist_cnn.settings import full_key, keys_of, written
from mnist_cnn.terminal.log_stream import describe_seconds, epochs_and_time
from mnist_cnn.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from jinja2 import Template

    from mnist_cnn.job import Job
    from mnist_cnn.run_page.facts import Facts

    Rows = Iterator[tuple[str, str]]

INSTALL = ("python", "-m", "pip", "install")
HERE = Path(__file__).parent
PICTURES = (
    (
        "confusion",
        "Confusion matrix",
        "Confusion matrix of the test images: how many of each class (row) were predicted as which (column)",
    ),
    ("mistakes", "Mistakes", "The test images that the model got wrong with the highest probability"),
)


@dataclasses.dataclass(frozen=True)
class Repetition:
    """How to train the run's job again.

    `defaults` are the settings of a job without overrides. `overrides` make this job, or are None if none do;
    they expect any initial weights in the current folder.
    """

    job: Job
    settings: Mapping[str, Any]
    defaults: Mapping[str, Any]
    overrides: tuple[str, ...] | None


def text_of(run: Facts, repetition: Repetition | None, end: Sequence[str] = ()) -> str:
    """Return the page's HTML.

    `repetition` is None if the job is unknown. `end` says why the run ended if it did not complete.
    """
    style = (HERE / "page.css").read_text(encoding="utf-8")
    style_hash = _base64(hashlib.sha256(style.encode()).digest())
    saved = run.saved_epoch
    measures: tuple[charts.Measure, ...] = ("loss", "accuracy") if run.history else ()
    shown = charts.shown_epochs(len(run.history), saved) if run.history else []
    return _template().render(
        run=run,
        status=run.status.value if run.status is not None else "unknown",
        summary=tuple(_summary(run)),
        warnings=tuple(_warnings(run)),
        end=end,
        charts=[charts.chart(run.history, measure, run.held_out, saved) for measure in measures],
        area=charts,
        metrics=sorted({name for epoch in run.history for name in epoch.metrics}),
        rows=[run.history[epoch - 1] for epoch in shown],
        pictures=[(*about, facts.picture(run, f"{about[0]}.png")) for about in PICTURES],
        classes=run.result.classes if run.result is not None else (),
        settings=tuple(_settings(repetition)) if repetition is not None else (),
        source=f"data:text/x-python;base64,{_base64(_source(run))}",
        environment=tuple(_environment(run)),
        identity=tuple(_identity(run)),
        steps=tuple(_steps(run, repetition)) if repetition is not None else (),
        log="" if run.status is Status.completed else facts.end_of_log(run),
        style=style,
        style_hash=f"sha256-{style_hash}",
        version=__version__,
    )


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _source(run: Facts) -> bytes:
    """Return the text of the network's file, without secrets.

    Empty if the network is one of ours.
    """
    return redact(run.job.model.source or "").encode("utf-8", "replace") if run.job is not None else b""


def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, finalize=_presentable
    )
    environment.filters["percent"] = percent
    return environment.get_template("page.html")


def _presentable(value: object) -> object:
    """Return a text without secrets and unprintable characters.

    Other values are returned as they are.
    """
    if type(value) is not str:  # numbers, and Markup, which the page itself has made
        return value
    letters = (
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}"
        for letter in redact(value)
    )
    return "".join(letters)


def _summary(run: Facts) -> Iterator[str]:
    """Yield what a reader wants to know first."""
    if run.result is not None:
        yield f"test accuracy {percent(run.result.accuracy)}"
        yield f"test loss {run.result.loss:.4f}"
    if run.history:
        for name, value in run.history[run.saved_epoch - 1].metrics.items():
            yield f"{run.held_out} {name} {value:.4f}"
        count = len(run.history)
        seconds = describe_seconds(sum(row.seconds for row in run.history))
        so_far = f"{describe_epochs(count)} (training: {seconds})"
        yield so_far if run.result is None else epochs_and_time(run.result, run.receipt)
        if run.saved_epoch != count:
            yield f"saved: epoch {run.saved_epoch}"
    if run.receipt is not None:
        yield f"backend {run.receipt.backend}"
        yield f"started {run.receipt.created[:16].replace('T', ' ')} UTC"
    if run.status is not None and not run.status.is_final:
        yield f"as of {now()[:16].replace('T', ' ')} UTC"


def _warnings(run: Facts) -> Iterator[str]:
    """Yield what is damaged, missing or makes weights incomparable."""
    yield from run.problems
    if run.problems and run.receipt is not None and run.status is Status.completed:
        yield f"To rebuild what is damaged: {command_line('resume', run.folder)}"
    for change in run.result.changes if run.result is not None else ():
        yield f"The weights are not comparable with another run's: {change}"


def _settings(repetition: Repetition) -> Iterator[dict[str, str | None]]:
    """Yield the rows of the settings table.

    `default` is None if the value is the default.
    """
    sections = (RunConfig, DataConfig, ModelConfig, TrainConfig)
    meanings = {full_key(each, name): spec.meaning for each in sections for name, spec in keys_of(each)}
    for key, meaning in meanings.items():
        if key == "model.source" or key not in repetition.defaults:  # the page links the source
            continue
        value, default = repetition.settings[key], repetition.defaults[key]
        is_default = value == default or key == "data.digest"
        yield {
            "key": key,
            "value": written(value),
            "default": None if is_default else written(default),
            "meaning": meaning,
        }


def _environment(run: Facts) -> Rows:
    """Yield what, besides the job, decides the weights.

    Only what is recorded.
    """
    if run.receipt is not None:
        yield "backend", run.receipt.backend
        for name, value in run.receipt.backend_settings.items():
            yield f"backend.{name}", written(value)
    if run.result is not None:
        yield "processor", run.result.processor
        yield "threads per operation", str(run.result.threads)
        yield "device", run.result.device
        yield "precision", run.result.precision
        yield "numerics", run.result.numerics
        yield from run.result.environment.items()
    yield from sorted(_versions(run).items())


def _versions(run: Facts) -> dict[str, str]:
    record = run.result or run.receipt
    return record.versions if record is not None else {}


def _identity(run: Facts) -> Rows:
    """Yield identifiers of the job, run and weights."""
    if run.receipt is not None:
        yield "run", run.receipt.id
        yield "job digest", run.receipt.job_digest
        if run.receipt.url is not None:
            yield "page at the service", run.receipt.url
    if run.job is not None:
        yield "data digest", str(run.job.data.digest)
    if run.result is not None:
        yield "weights_sha256", run.result.weights_sha256
        yield "fingerprint", run.result.fingerprint or "not recorded by this version"


def _steps(run: Facts, repetition: Repetition) -> Iterator[tuple[str, str]]:
    """Yield the steps to train the same job again.

    A step is a sentence, and a command or an empty text.
    """
    job = repetition.job
    versions = (f"{name}=={version}" for name, version in _versions(run).items() if name != "mnist_cnn")
    if pins := tuple(versions):
        yield "Install the same versions of these packages:", shlex.join((*INSTALL, *pins))
    if job.model.file is not None:
        yield f"Save {job.model.file}, whose text is among the settings, in the current folder.", ""
    if job.data.dir is not None:
        yield f"Provide the same data in {job.data.dir}, or change data.dir; other data are refused.", ""
    if job.train.init is not None:
        name = Path(job.train.init).name
        about = f"the SHA-256 of their weights is {job.train.init_sha256}; others are refused"
        yield f"Save the initial weights as {name} in the current folder; {about}.", ""
    made_by = repetition.overrides
    if made_by is None:
        yield "No command line makes this job; submit its job.json from Python.", ""
        return
    plan, train = (command_line(*command, *made_by) for command in (("plan",), ()))
    yield f"Check that the job is the same; its digest is {job.digest}:", plan
    yield "Train it:", train
    if job.train.numerics is Numerics.exact:
        yield "The weights are the same on every Linux machine with an x86-64 processor.", ""
    else:
        yield "The weights are the same if versions, device, precision and fingerprint are.", ""
