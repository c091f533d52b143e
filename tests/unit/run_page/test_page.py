"""A run's page: valid HTML that loads nothing, escapes everything and says what is missing."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.copies import change_receipt
from helpers.pages import loaded, parse, words
from helpers.processes import result_of

from mnist_cnn import migrations, overrides, records, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.run_page import facts, page

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MARKUP = "</style><script>alert('x')</script><img src=http://x.example/ onerror=alert(1)>\"'&"
UNPRINTABLE = "\x1b\u202e"
TRICK = MARKUP + UNPRINTABLE


def page_of(folder: Path, status: Status | None = Status.completed, end: tuple[str, ...] = ()) -> str:
    run = facts.read(folder, status)
    repetition = None
    if run.job is not None:
        values = overrides.settings_of(run.job).values
        repetition = page.Repetition(run.job, values, values, ("seed=3",))
    return page.text_of(run, repetition, end)


def section(tree: Element, name: str) -> str:
    """Return the text of the section whose heading has this id."""
    (found,) = (each for each in tree.iter("section") if each.get("aria-labelledby") == name)
    return words(found)


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def write_result(folder: Path, **values: Any) -> None:
    """Write a run's result with these values and the checksum that fits them."""
    content = dataclasses.asdict(result_of(folder)) | values
    text = json.dumps({"schema": migrations.SCHEMA, **content, "sha256": records.digest(content)})
    (folder / run_folder.RESULT).write_text(text)


def test_the_page_shows_all_that_the_run_holds(run: Path) -> None:
    tree = parse(page_of(run))
    assert words(next(tree.iter("h1"))) == "Run run"
    assert [words(heading) for heading in tree.iter("h2")] == [
        *("Learning curves", "Confusion matrix", "Mistakes", "Settings", "Environment", "Identity"),
        "Repeat it",
    ]
    result, text = result_of(run), words(tree)
    assert "completed · test accuracy 14.00% · test loss 2.2733 · 3 epochs" in text
    digests = {result.job_digest, result.weights_sha256, *(entry.sha256 for entry in result.files.values())}
    assert digests <= set(section(tree, "identity").split())
    assert "train.batch_size 25 images per step" in section(tree, "settings")
    assert f"processor {result.processor} threads per operation 2 device cpu" in section(tree, "environment")
    assert "python -m mnist_cnn plan seed=3 Train it: python -m mnist_cnn seed=3" in section(tree, "repeat")
    tips = [words(element) for element in tree.iter() if element.tag.endswith("}title")]
    assert tips[1:4] == [
        "epoch 1: test 3.2397, training 2.2986",
        "epoch 2: test 2.2737, training 2.4866",
        "epoch 3: test 2.2733, training 2.3031",
    ]


def test_the_page_loads_nothing_and_its_policy_says_so(run: Path) -> None:
    text = page_of(run)
    tree = parse(text)
    assert loaded(tree) == []
    assert not [*tree.iter("script"), *tree.iter("iframe"), *tree.iter("object")]
    assert not [element for element in tree.iter() if any(name.startswith("on") for name in element.keys())]  # noqa: SIM118 - of an element
    (policy,) = (meta.get("content", "") for meta in tree.iter("meta") if meta.get("http-equiv"))
    (style,) = ("".join(element.itertext()) for element in tree.iter("style"))
    style_hash = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}';")
    assert not [element for element in tree.iter() if "style" in element.attrib]  # the policy forbids them


def test_the_page_is_accessible(run: Path) -> None:
    tree = parse(page_of(run))
    assert next(tree.iter("html")).get("lang") == "en"
    assert all(image.get("alt") for image in tree.iter("img"))
    assert {head.get("scope") for head in tree.iter("th")} == {"row", "col"}
    assert all(table.find("caption") is not None for table in tree.iter("table"))
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(set(ids)) == len(ids)
    links = [link.get("href", "")[1:] for link in tree.iter("a")]
    named = [element.get("aria-labelledby") for element in tree.iter() if element.get("aria-labelledby")]
    assert len(links) == 7
    assert {*links, *named} <= set(ids)
    drawings = [element for element in tree.iter() if element.tag.endswith("}svg")]
    assert [drawing.get("role") for drawing in drawings] == ["img", "img"]


def test_everything_is_escaped(run: Path) -> None:
    plain = [element.tag for element in parse(page_of(run, Status.failed, ("why",))).iter()]
    tricked = run.parent / (TRICK.replace("/", "") + os.fsdecode(b"\xff"))
    run.rename(tricked)
    change_receipt(
        tricked, backend=TRICK, id=TRICK, url=TRICK, versions={TRICK: TRICK}, backend_settings={TRICK: TRICK}
    )
    job = run_folder.read_job(tricked)
    changed = dataclasses.replace(job, data=dataclasses.replace(job.data, name=TRICK, dir=TRICK))
    (tricked / "job.json").write_text(changed.to_json())
    (tricked / "log.txt").write_bytes(TRICK.encode() + b"\0\xff")
    write_result(tricked, processor=TRICK, device=TRICK, versions={TRICK: TRICK}, environment={TRICK: TRICK})
    text = page_of(tricked, Status.failed, (TRICK,))
    assert text.encode()
    assert not {*UNPRINTABLE, "\0"} & set(text)
    tree = parse(text)
    assert loaded(tree) == []
    assert {element.tag for element in tree.iter()} == {*plain, "pre"}
    assert words(tree).count("<script>alert('x')</script>") > 10


def test_a_network_of_the_users_own_can_be_read_and_saved(run: Path) -> None:
    job = run_folder.read_job(run)
    source = f"\ndef build():\n    return {MARKUP[:20]!r}\n"
    model = dataclasses.replace(job.model, file="net.py", source=source)
    (run / "job.json").write_text(dataclasses.replace(job, model=model).to_json())
    tree = parse(page_of(run))
    assert "".join(next(tree.iter("pre")).itertext()) == source
    (link,) = (each for each in tree.iter("a") if each.get("download") == "net.py")
    assert base64.b64decode(link.get("href", "").partition("base64,")[2]).decode() == source
    assert "Save net.py, whose text is among the settings" in section(tree, "repeat")
    assert "run/job.json is not the job that this run was started with" in section(tree, "warnings")


def test_secrets_are_redacted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PASSWORD", "correct horse battery")
    write_result(run, environment={"XLA_FLAGS": "--key=correct horse battery"})
    job = run_folder.read_job(run)
    model = dataclasses.replace(job.model, file="net.py", source="KEY = 'correct horse battery'")
    (run / "job.json").write_text(dataclasses.replace(job, model=model).to_json())
    (run / "log.txt").write_text("Authorization: Bearer abcdefghijkl\ncorrect horse battery")
    text = page_of(run, Status.failed)
    assert "XLA_FLAGS" in text
    assert "correct horse" not in text
    assert base64.b64encode(b"KEY = '***'").decode() in text
    assert "abcdefghijkl" not in text


@pytest.mark.parametrize("name", ["confusion.png", "model.onnx", "metrics.jsonl"])
@pytest.mark.parametrize("is_missing", [False, True])
def test_a_file_that_is_not_the_one_of_the_training_is_named(
    run: Path, name: str, *, is_missing: bool
) -> None:
    (run / name).unlink() if is_missing else (run / name).write_bytes(b"other")
    tree = parse(page_of(run))
    said = "is missing" if is_missing else "is not the file that the training wrote: 5 bytes"
    assert f"{run / name} {said} To rebuild what is damaged: python -m mnist_cnn resume {run}" in section(
        tree, "warnings"
    )
    assert section(tree, "identity").count("damaged or missing") == 1
    assert len([*tree.iter("img")]) == (1 if name == "confusion.png" else 2)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("job.json", "The settings are unknown, because job.json cannot be read."),
        ("result.json", "Processor, threads and device are recorded at the end of the training."),
        ("run.json", "unknown · test accuracy 14.00%"),
    ],
)
@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\x00", b'{"schema": 9}', b"[" * 100_000])
def test_a_damaged_run_has_a_page_that_says_so(
    run: Path, name: str, said: str, content: bytes | None
) -> None:
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content)
    tree = parse(page_of(run, None if name == "run.json" else Status.completed))
    assert said in words(tree)
    assert name in section(tree, "warnings")
    assert "epoch 3: test 2.2733" in words(tree)


def test_a_folder_without_any_readable_file_has_a_page(tmp_path: Path) -> None:
    for name in ("run.json", "job.json", "result.json", "metrics.jsonl", "log.txt", "confusion.png"):
        (tmp_path / name).mkdir()
    tree = parse(page_of(tmp_path, None))
    assert "The history cannot be read." in section(tree, "curves")
    assert "The command is unknown" in section(tree, "repeat")


def test_a_run_that_is_running_has_a_page(run: Path) -> None:
    (run / "result.json").unlink()
    (run / "metrics.jsonl").unlink()
    (run / "log.txt").write_text("\n".join(f"line {number}" for number in range(100)))
    tree = parse(page_of(run, Status.running))
    assert "as of 20" in words(next(tree.iter("header")))
    assert "No epoch has ended yet." in section(tree, "curves")
    assert section(tree, "log").startswith("End of the log line 60 line 61")
    assert not [each for each in tree.iter("section") if each.get("class") == "warning"]


def test_the_page_says_how_the_run_ended(run: Path) -> None:
    (run / "result.json").unlink()
    tree = parse(page_of(run, Status.failed, ("the loss became nan", "lower it")))
    assert section(tree, "end") == "How it ended the loss became nan lower it"


def test_weights_that_are_not_comparable_are_a_warning(run: Path) -> None:
    write_result(run, changes=("keras 4 (was 3)",))
    said = section(parse(page_of(run)), "warnings")
    assert said == "Warning The weights are not comparable with another run's: keras 4 (was 3)"


def test_a_long_history_makes_a_small_page(run: Path) -> None:
    result = result_of(run)
    first = dataclasses.asdict(result.history[0])
    write_result(run, history=[{**first, "epoch": epoch} for epoch in range(1, 20_001)])
    text = page_of(run)
    assert len(text) < 300_000
    assert "200 of 20000 epochs; metrics.jsonl has all." in words(parse(text))


def test_the_page_of_a_completed_run_is_always_the_same(run: Path) -> None:
    assert page_of(run) == page_of(run)


def test_the_scores_of_each_class_are_a_table(run: Path) -> None:
    scores = {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 7}
    write_result(run, classes=[scores, {**scores, "precision": None}])
    said = section(parse(page_of(run)), "confusion")
    assert said.endswith("class images precision recall F1 0 7 50.00% 100.00% 66.67% 1 7 none 100.00% 66.67%")


@pytest.mark.parametrize("saved", [2, 3, 99, -1])
def test_an_epoch_that_is_saved_and_is_not_the_last_is_named(run: Path, saved: int) -> None:
    write_result(run, saved_epoch=saved)
    tree = parse(page_of(run))
    assert ("saved: epoch 2" in words(next(tree.iter("header")))) == (saved == 2)
    markers = [element for element in tree.iter() if element.get("r") == "5"]
    tips = [next(group for group in tree.iter() if marker in group)[0] for marker in markers]
    assert [words(tip).partition(":")[0] for tip in tips] == [f"epoch {2 if saved == 2 else 3}"] * 2


def test_further_metrics_are_columns_of_the_history(run: Path) -> None:
    rows = [dataclasses.asdict(row) for row in result_of(run).history]
    write_result(run, history=[{**rows[0], "metrics": {}}, {**rows[1], "metrics": {"auc": 0.5}}])
    said = section(parse(page_of(run)), "curves")
    assert "test accuracy test auc next learning rate" in said
    assert "14.00% 0.5000 1 0.0" in said
