import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

from gsae import artifacts
from gsae.errors import RunError, SettingError
from gsae.text import packing
from gsae.text.documents import Document
from gsae.text.tokens import TokenStore, write_rows, write_token_store

SEPARATOR, BOS, VOCABULARY = 256, 257, 300


def encode_batch(texts):
    return [list(text.encode()) for text in texts]


def documents(number=40, seed=0):
    rng = np.random.default_rng(seed)
    letters = np.frombuffer(b"abcdefgh", np.uint8)
    lengths = rng.integers(0, 60, number)
    return [Document(f"d{i}", rng.choice(letters, n).tobytes().decode()) for i, n in enumerate(lengths)]


def write(path, docs, encode=encode_batch, **settings):
    defaults = {
        "context_length": 8,
        "separator_id": SEPARATOR,
        "special_ids": [SEPARATOR, BOS],
        "vocabulary": VOCABULARY,
        "progress": False,
    }
    return write_token_store(path, docs, encode, **{**defaults, **settings})


def expected(docs, context_length, separator, bos):
    """Rows and documents of rows, one token at a time."""
    stream = []
    for i, document in enumerate(docs):
        ids = ([] if separator is None else [separator]) + list(document.text.encode())
        stream += [(token, i) for token in ids]
    width = context_length - (bos is not None)
    rows = [stream[start : start + width] for start in range(0, len(stream) - width + 1, width)]
    rows = [([(bos, row[0][1])] if bos is not None else []) + row for row in rows]
    return np.array(rows)[..., 0], np.array(rows)[..., 1], len(stream) - len(rows) * width


@pytest.mark.parametrize("portion", [1, 50, 1 << 20])
@pytest.mark.parametrize("bos", [None, BOS])
@pytest.mark.parametrize("separator", [None, SEPARATOR])
@pytest.mark.parametrize("context_length", [2, 7, 64])
def test_rows_are_the_stream_cut_up(tmp_path, monkeypatch, portion, bos, separator, context_length):
    monkeypatch.setattr(packing, "CHARACTERS_AT_ONCE", portion)
    monkeypatch.setattr(packing, "TOKENS_AT_ONCE", portion)
    docs = documents()
    store = write(tmp_path / "s", iter(docs), context_length=context_length, separator_id=separator, bos_id=bos)
    rows, owners, left_over = expected(docs, context_length, separator, bos)
    ids = np.random.default_rng(0).permutation(store.num_sequences)
    assert (store.num_sequences, store.context_length) == rows.shape == store.tokens.shape
    assert store.tokens.dtype == np.uint16 and store.manifest["dropped_tokens"] == left_over
    np.testing.assert_array_equal(store.tokens, rows)
    np.testing.assert_array_equal(store.documents_of(ids), owners[ids])
    assert store.documents_of(ids).dtype == np.int32
    counts = ~np.isin(rows, [SEPARATOR, BOS])
    counts[:, 0] = False
    np.testing.assert_array_equal(store.mask(ids), counts[ids])
    assert store.document_names == [document.name for document in docs][: store.num_documents]
    assert owners.max() < store.num_documents


def test_documents_that_are_dropped_whole_do_not_count(tmp_path):
    docs = [Document("fills a row", "abcdefg"), Document("dropped", "abc"), Document("dropped too", "")]
    store = write(tmp_path / "s", docs)
    assert store.document_names == ["fills a row"] and store.num_documents == len(store.document_starts) == 1
    assert store.manifest["dropped_tokens"] == 5


def test_wide_vocabulary_takes_four_bytes(tmp_path):
    for vocabulary, dtype in ((1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)):
        last = vocabulary - 1
        store = write(
            tmp_path / "s", documents(), lambda texts, last=last: [[last] * 9 for _ in texts], vocabulary=vocabulary
        )
        assert store.tokens.dtype == dtype
        assert int(store.tokens.max()) == last


def test_how_many_leading_positions_are_masked_is_kept(tmp_path):
    ids = [0, 3]
    for number in (0, 1, 3):
        store = write(tmp_path / "s", documents(), special_ids=[], masked_positions=number)
        mask = TokenStore.open(tmp_path / "s").mask(ids)
        assert not mask[:, :number].any() and mask[:, number:].all() and mask.shape == (2, store.context_length)
    with pytest.raises(SettingError, match=r"config\.text\.skip_positions = 8: must be from 0 to 7"):
        write(tmp_path / "s", documents(), masked_positions=8)


def test_ids_outside_the_store_are_refused(tmp_path):
    store = write(tmp_path / "s", documents())
    for ids in ([-1], [0, store.num_sequences]):
        for question in (store.mask, store.documents_of):
            with pytest.raises(IndexError, match="sequence ids"):
                question(ids)
    assert store.mask([]).shape == store.documents_of([]).shape == (0, 8)


def test_fingerprint_is_of_the_content(tmp_path):
    first = write(tmp_path / "a", documents(), manifest={"seconds": 1})
    assert first.manifest["seconds"] == 1
    assert first.fingerprint == write(tmp_path / "b", documents(), manifest={"seconds": 2}).fingerprint
    assert first.fingerprint == TokenStore.open(tmp_path / "a").fingerprint
    renamed = [Document("x" + document.name, document.text) for document in documents()]
    others = [
        write(tmp_path / "c", documents(seed=1)),
        write(tmp_path / "d", renamed),
        write(tmp_path / "e", documents(), special_ids=[]),
        write(tmp_path / "f", documents(), masked_positions=0),
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_damage_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "s"
    for name in (packing.TOKENS, packing.STARTS, packing.NAMES):
        for damage in ("flip", "cut", "remove"):
            write(path, documents())
            file, data = path / name, bytearray((path / name).read_bytes())
            data[len(data) // 2] ^= 1
            if damage == "flip":
                file.write_bytes(data)
            elif damage == "cut":
                file.write_bytes(data[:-1])
            else:
                file.unlink()
            with pytest.raises(RunError, match=name):
                TokenStore.open(path)
    write(path, documents())
    manifest = json.loads((path / artifacts.MANIFEST).read_text())
    for key, reason in {
        "num_sequences": packing.TOKENS,
        "num_documents": packing.STARTS,
        "format": "token store",
    }.items():
        (path / artifacts.MANIFEST).write_text(json.dumps({**manifest, key: 3}))
        with pytest.raises(RunError, match=reason):
            TokenStore.open(path)
    with pytest.raises(RunError, match="not a finished artifact"):
        TokenStore.open(tmp_path / "absent")


def test_too_little_text_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(SettingError, match=r"config\.text\.context_length = 8: the text has only 5 tokens"):
        write(tmp_path / "s", [Document("a", "abcd")])
    with pytest.raises(SettingError, match=r"config\.text\.context_length = 1: must be at least 2"):
        write(tmp_path / "s", documents(), context_length=1)
    with pytest.raises(SettingError, match="0 tokens"):
        write(tmp_path / "s", [])
    assert list(tmp_path.iterdir()) == []


def test_tokens_outside_the_vocabulary_are_an_error_and_leave_the_older_store(tmp_path):
    store = write(tmp_path / "s", documents())
    for token in (-1, VOCABULARY):
        with pytest.raises(RunError, match=rf"token {token} for d0; the language model knows only 0 to 299"):
            write(tmp_path / "s", documents(), lambda texts, token=token: [[1, token, 2] for _ in texts])
    assert TokenStore.open(tmp_path / "s").fingerprint == store.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


KILLED = """
import sys
from gsae.text.documents import Document
from gsae.text.tokens import write_token_store
def endless():
    i = 0
    while True:
        yield Document(str(i), "abcdefgh" * 1000)
        i += 1
write_token_store(sys.argv[1], endless(), lambda texts: [list(t.encode()) for t in texts], context_length=8,
                  separator_id=256, special_ids=[256], vocabulary=300, progress=False)
"""


def test_killed_writer_leaves_nothing_that_counts(tmp_path):
    path = tmp_path / "s"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)])
    try:
        deadline = time.monotonic() + 60
        while not any(file.stat().st_size for file in tmp_path.glob(f"*/{packing.TOKENS}")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not path.exists() and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(RunError, match="not a finished artifact"):
        TokenStore.open(path)
    write(path, documents())
    assert [left.name for left in tmp_path.iterdir()] == ["s"]


def test_memory_does_not_grow_with_the_text(tmp_path):
    def peak(number):
        tracemalloc.start()
        text = "abcdefgh" * 1000
        docs = (Document(str(i), text) for i in range(number))
        # One list for all texts: what is measured is the writer, not this test's tokenizer.
        ids = list(text.encode())
        write(tmp_path / "s", docs, lambda texts: [ids] * len(texts), context_length=128)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(300)
    assert peak(1200) < 1.1 * peak(300)


def test_progress_shows_tokens_a_second(tmp_path, capsys):
    write(tmp_path / "s", documents(), progress=True)
    assert "tokens/s" in capsys.readouterr().err
    write(tmp_path / "s", documents())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("bos", [None, BOS])
def test_one_document_a_row(tmp_path, bos):
    docs = [
        Document("short", "abc"),
        Document("empty", ""),
        Document("full", "abcdefgh"),
        Document("long", "abcdefghij"),
    ]
    begins = [BOS, *b"ab"]
    pairs = [(d.name, np.array(list(d.text.encode()))) for d in docs] + [("begins with BOS", np.array(begins))]
    settings = {"context_length": 8, "separator_id": SEPARATOR, "special_ids": [BOS], "vocabulary": VOCABULARY}
    store = write_rows(tmp_path / "s", pairs, packing="one_document", bos_id=bos, **settings)
    before = [] if bos is None else [bos]
    rows = [[*before, *b"abc"], [*before, *b"abcdefgh"], [*before, *b"abcdefghij"], begins]
    padded = np.array([(row + [SEPARATOR] * 8)[:8] for row in rows])
    padding = np.array([[t >= len(row) for t in range(8)] for row in rows])
    ids = np.array([3, 0, 1, 2])
    np.testing.assert_array_equal(store.tokens, padded)
    assert store.document_names == ["short", "full", "long", "begins with BOS"]
    assert store.manifest["dropped_tokens"] == sum(max(0, len(row) - 8) for row in rows)
    np.testing.assert_array_equal(store.documents_of(ids), np.where(padding[ids], -1, ids[:, None]))
    counts = ~padding & (padded != BOS)
    counts[:, 0] = False
    np.testing.assert_array_equal(store.mask(ids), counts[ids])
    packed = write_rows(tmp_path / "p", pairs, bos_id=bos, **settings)
    assert store.fingerprint != packed.fingerprint == TokenStore.open(tmp_path / "p").fingerprint
    (tmp_path / "s" / packing.LENGTHS).unlink()
    with pytest.raises(RunError, match=packing.LENGTHS):
        TokenStore.open(tmp_path / "s")


def test_wrong_packing_is_refused(tmp_path):
    with pytest.raises(SettingError, match=r"config\.text\.packing = 'tight': must be one of across_documents"):
        write(tmp_path / "s", documents(), packing="tight")


def test_documents_that_came_as_ids_keep_them(tmp_path):
    docs = [Document("a", "xyz"), Document("b", "", np.array([1, 2, 3])), Document("c", "w")]
    store = write(tmp_path / "s", docs, context_length=5)
    assert store.tokens.tolist() == [[SEPARATOR, *b"xyz", SEPARATOR], [1, 2, 3, SEPARATOR, *b"w"]]
