import json

import pytest

from gsae.text import stream
from gsae.text.content import Content
from gsae.text.sources import open_source
from gsae.text.stream import blocks


@pytest.fixture
def source(tmp_path):
    for name in "abc":
        lines = "".join(json.dumps({"text": f"{name}{i}" * (i + 1)}) + "\n" for i in range(20))
        (tmp_path / f"{name}.jsonl").write_text(lines)
    return open_source("files", paths=[str(tmp_path)], content=Content())


def read(source, start=None, shuffle_buffer=0, seed=0, max_documents=0):
    reading = source.read(start["source"] if start else None)
    return list(blocks(reading, start=start, shuffle_buffer=shuffle_buffer, seed=seed, max_documents=max_documents))


def names(found):
    return [document.name for block in found for document in block.documents]


@pytest.mark.parametrize("max_documents", [0, 1, 7, 21, 60, 100])
@pytest.mark.parametrize("shuffle_buffer", [0, 1, 7, 100])
def test_the_stream_goes_on_after_any_block(source, monkeypatch, shuffle_buffer, max_documents):
    monkeypatch.setattr(stream, "BLOCK_DOCUMENTS", 5)
    monkeypatch.setattr(stream, "BLOCK_CHARACTERS", 100)
    how = {"shuffle_buffer": shuffle_buffer, "seed": 3, "max_documents": max_documents}
    whole = read(source, **how)
    expected = [document.name for document in source.read()][: max_documents or None]
    assert sorted(names(whole)) == sorted(expected)
    assert (names(whole) == expected) == (shuffle_buffer < 2 or max_documents == 1)
    for number, block in enumerate(whole, 1):
        rest = read(source, start=json.loads(json.dumps(block.end)), **how)
        assert names(rest) == names(whole[number:])
        assert [b.end for b in rest] == [b.end for b in whole[number:]]


def test_shuffling_stays_in_its_block_and_follows_the_seed(source):
    expected = [document.name for document in source.read()]
    one, other = (names(read(source, shuffle_buffer=12, seed=seed)) for seed in (0, 1))
    assert one != other
    for start in range(0, 60, 12):
        assert sorted(one[start : start + 12]) == sorted(expected[start : start + 12])
    orders = {tuple(expected[s : s + 12].index(n) for n in one[s : s + 12]) for s in range(0, 60, 12)}
    assert len(orders) == 5  # another order in every block


def test_blocks_are_bounded_by_characters(source, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK_CHARACTERS", 100)
    found = read(source)
    assert all(100 <= block.characters < 200 for block in found[:-1])
