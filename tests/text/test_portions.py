"""Encoding in portions: killed, shared by processes, or neither, the stores are the same, byte for byte."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

from gsae.errors import RunError, SettingError
from gsae.text import portions, stream
from gsae.text.documents import Document
from gsae.text.portions import Plan, encode_portions, side_of
from gsae.text.sources import open_source
from gsae.text.splits import is_held_out, split_documents
from gsae.text.tokens import write_rows

FILES = ("tokens.bin", "document_starts.bin", "document_names.jsonl")
ALL_COMPARED, BY_DOCUMENT = Plan(0.2, 1 << 30), Plan(0.2, 500, shuffle_buffer=9, seed=4)


def encode_batch(texts):
    return [list(text.encode()) for text in texts]


def never(texts):
    raise AssertionError("everything is encoded already")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(stream, "BLOCK_DOCUMENTS", 7)
    monkeypatch.setattr(portions, "PORTION_CHARACTERS", 600)


def write_text(directory, number=120):
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(300)]
    for part in range(3):
        records = [{"text": " ".join(rng.choice(words, rng.integers(1, 40)))} for _ in range(number // 3)]
        (directory / f"{part}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return open_source("files", paths=[str(directory)])


@pytest.fixture
def source(tmp_path):
    (tmp_path / "text").mkdir()
    return write_text(tmp_path / "text")


def encode(directory, source, plan, encode_batch=encode_batch, process=(0, 1), **settings):
    return encode_portions(
        directory, source, encode_batch, plan, process=process, progress=False, **{"made_from": {"a": 1}, **settings}
    )


def bytes_of_stores(directory, count, to):
    """The files of both stores."""
    settings = {"context_length": 8, "separator_id": 256, "special_ids": [256], "vocabulary": 300}
    for held_out in (False, True):
        write_rows(to / str(held_out), side_of(directory, count, held_out), **settings)
    return [(to / str(held_out) / name).read_bytes() for held_out in (False, True) for name in FILES]


@pytest.mark.parametrize("plan", [ALL_COMPARED, BY_DOCUMENT])
def test_the_sides_are_those_of_the_split_and_nothing_is_lost(tmp_path, source, plan):
    count = encode(tmp_path / "portions", source, plan)
    assert count > 5
    documents = list(source.read())
    train, held_out = split_documents(documents, 0.2)
    if plan is BY_DOCUMENT:
        held_out = [document for document in documents if is_held_out(document, 0.2)]
        train = [document for document in documents if document not in held_out]
        assert 0.1 < len(held_out) / len(documents) < 0.3
    for side, expected in ((False, train), (True, held_out)):
        found = [(name, bytes(ids.tolist()).decode()) for name, ids in side_of(tmp_path / "portions", count, side)]
        assert sorted(found) == sorted((document.name, document.text) for document in expected)
        assert (found == [(d.name, d.text) for d in expected]) == (plan is ALL_COMPARED)  # the other one is shuffled


@pytest.mark.parametrize("plan", [ALL_COMPARED, BY_DOCUMENT])
def test_what_is_encoded_is_not_encoded_again(tmp_path, source, plan):
    count = encode(tmp_path / "whole", source, plan)
    whole = bytes_of_stores(tmp_path / "whole", count, tmp_path / "of_whole")
    for stop in (0, 1, count - 1):
        calls = 0

        def broken(texts, stop=stop):
            nonlocal calls
            calls += 1
            if calls > stop:
                raise KeyboardInterrupt
            return encode_batch(texts)

        directory = tmp_path / f"stopped_{stop}"
        with pytest.raises(KeyboardInterrupt):
            encode(directory, source, plan, broken)
        seen = []
        record = lambda texts, seen=seen: seen.append(texts) or encode_batch(texts)  # noqa: E731
        assert encode(directory, source, plan, record) == count
        assert len(seen) == count - stop
        assert encode(directory, source, plan, never) == count
        assert bytes_of_stores(directory, count, tmp_path / f"of_stopped_{stop}") == whole


def test_a_text_divided_by_document_is_not_read_from_its_beginning_again(tmp_path, source):
    count = encode(tmp_path / "portions", source, BY_DOCUMENT)
    positions = []
    source.read = lambda position=None, read=source.read: positions.append(position) or read(position)
    assert encode(tmp_path / "portions", source, BY_DOCUMENT, never) == count
    assert positions == [{"file": 3, "record": 0}]


@pytest.mark.parametrize("plan", [ALL_COMPARED, BY_DOCUMENT])
@pytest.mark.parametrize("processes", [2, 7])
def test_processes_share_the_work_without_overlap(tmp_path, source, plan, processes):
    count = encode(tmp_path / "one", source, plan)
    whole = bytes_of_stores(tmp_path / "one", count, tmp_path / "of_one")
    encoded = []
    order = [*range(1, processes), 0]  # whichever comes first
    for position, index in enumerate(order):
        seen = []
        batch = lambda texts, seen=seen: seen.extend(texts) or encode_batch(texts)  # noqa: E731
        assert encode(tmp_path / "many", source, plan, batch, (index, processes)) == count
        encoded += seen
        there = {int(path.name) for path in (tmp_path / "many").iterdir()}
        assert there == {k for k in range(count) if k % processes in order[: position + 1]}
    assert sorted(encoded) == sorted(document.text for document in source.read())
    assert bytes_of_stores(tmp_path / "many", count, tmp_path / "of_many") == whole


def test_a_process_goes_on_after_its_own_portions_whatever_the_others_did(tmp_path, source):
    count = encode(tmp_path / "one", source, BY_DOCUMENT)
    encode(tmp_path / "two", source, BY_DOCUMENT, process=(1, 2))
    encode(tmp_path / "two", source, BY_DOCUMENT, process=(0, 2))
    whole = bytes_of_stores(tmp_path / "one", count, tmp_path / "of_one")
    assert bytes_of_stores(tmp_path / "two", count, tmp_path / "of_two") == whole
    # Now as if one had been killed early, and another number of processes goes on.
    for k in (2, 4, 5):
        for file in (tmp_path / "two" / f"{k:06}").iterdir():
            file.unlink()
    for index in range(3):
        encode(tmp_path / "two", source, BY_DOCUMENT, process=(index, 3))
    assert bytes_of_stores(tmp_path / "two", count, tmp_path / "of_two") == whole


def test_other_settings_and_other_text_are_refused(tmp_path, source):
    encode(tmp_path / "portions", source, ALL_COMPARED)
    with pytest.raises(RunError, match="was begun with other settings or another text"):
        encode(tmp_path / "portions", source, ALL_COMPARED, made_from={"a": 2})
    path = tmp_path / "text" / "0.jsonl"
    path.write_text(path.read_text().replace("w1", "w2"))  # as long as before: found by the portions' digests
    with pytest.raises(RunError, match="was begun with another text"):
        encode(tmp_path / "portions", open_source("files", paths=[str(tmp_path / "text")]), ALL_COMPARED)
    path.write_text(path.read_text() + path.read_text())
    with pytest.raises(RunError, match="was begun with other settings or another text"):
        encode(tmp_path / "portions", open_source("files", paths=[str(tmp_path / "text")]), ALL_COMPARED)


def test_damaged_and_missing_portions_are_named(tmp_path, source):
    count = encode(tmp_path / "portions", source, ALL_COMPARED)
    (tmp_path / "portions" / "000001" / "ids.bin").write_bytes(b"")
    with pytest.raises(RunError, match=r"000001/ids\.bin"):
        list(side_of(tmp_path / "portions", count, True))
    shutil.rmtree(tmp_path / "portions" / "000001")
    with pytest.raises(RunError, match="000001: is not a finished artifact"):
        list(side_of(tmp_path / "portions", count, True))


def test_no_text_is_refused(tmp_path):
    (tmp_path / "blank.txt").write_text(" \n")
    with pytest.raises(SettingError, match=r"config\.text\.paths .*holds no text"):
        encode(tmp_path / "portions", open_source("files", paths=[str(tmp_path / "blank.txt")]), ALL_COMPARED)
    assert not (tmp_path / "portions").exists()


def test_progress_shows_the_rate_and_how_much_there_is(tmp_path, source, capsys):
    encode_portions(tmp_path / "a", source, encode_batch, ALL_COMPARED, made_from={})
    shown = capsys.readouterr().err
    assert "tokens/s" in shown and "100%" in shown and "characters" in shown
    encode_portions(tmp_path / "b", source, encode_batch, BY_DOCUMENT, made_from={})
    shown = capsys.readouterr().err
    assert "tokens/s" in shown and "120" in shown and "documents" in shown


class Endless:
    """A source of so many documents that are made as they are read."""

    blamed, identity = ("config.text.paths", "endless"), "endless"

    def __init__(self, number):
        self.number = number

    def read(self, position=None):
        return EndlessReading(self.number)


class EndlessReading:
    total = None

    def __init__(self, number):
        self.number = number

    def position(self):
        return {}

    def __iter__(self):
        for i in range(self.number):
            yield Document(str(i), f"{i} some words in a row " * 80)


def test_memory_does_not_grow_with_a_text_that_is_divided_by_document(tmp_path, monkeypatch):
    monkeypatch.setattr(portions, "PORTION_CHARACTERS", 20_000)

    def peak(number):
        tracemalloc.start()
        encode(tmp_path / str(number), Endless(number), BY_DOCUMENT, lambda texts: [[1, 2, 3]] * len(texts))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(20)
    assert peak(240) < 1.3 * peak(80)


KILLED = """
import sys, time
from pathlib import Path
from gsae.text import portions, stream
from gsae.text.portions import Plan, encode_portions
from gsae.text.sources import open_source
stream.BLOCK_DOCUMENTS, portions.PORTION_CHARACTERS = 7, 600
def slowly(texts):
    time.sleep(0.2)
    return [list(text.encode()) for text in texts]
encode_portions(Path(sys.argv[1]), open_source("files", paths=[sys.argv[2]]), slowly,
                Plan(0.2, 500, shuffle_buffer=9, seed=4), made_from={"a": 1})
"""


def test_killed_it_goes_on_after_the_last_portion(tmp_path, source):
    count = encode(tmp_path / "whole", source, BY_DOCUMENT)
    directory = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(directory), str(tmp_path / "text")])
    try:
        deadline = time.monotonic() + 120
        while len(list(directory.glob("*/manifest.json"))) < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = {path: path.stat().st_mtime_ns for path in directory.glob("[0-9]*[0-9]/manifest.json")}
    assert 3 <= len(done) < count
    assert encode(directory, source, BY_DOCUMENT) == count
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    whole = bytes_of_stores(tmp_path / "whole", count, tmp_path / "of_whole")
    assert bytes_of_stores(directory, count, tmp_path / "of_killed") == whole
