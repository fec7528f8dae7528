"""The first stage, from settings to token stores: what is done is written down, what is wrong is one line."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import tiny_run

from gsae import config, pipeline
from gsae.errors import SettingError
from gsae.text.tokens import TokenStore


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return tiny_run.documents(tmp_path_factory.mktemp("texts"))


def tokenise(paths, workdir, **changes):
    pipeline.run(config.parse(tiny_run.configuration(paths, **changes)), workdir, stage="tokenise")
    return [TokenStore.open(workdir / "tokens" / part) for part in ("train", "held_out")]


def records(path, *values, column="text"):
    path.write_text("".join(json.dumps({column: value}) + "\n" for value in values))
    return path


def test_the_stores_say_what_was_done(tmp_path, texts):
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 4096, rng.integers(40, 200)).tolist() for _ in range(60)]
    path = records(tmp_path / "ids.jsonl", *rows, column="input_ids")
    changes = {
        "text__content": "token_ids",
        "text__column": "input_ids",
        "text__packing": "one_document",
        "text__prepend_bos": "always",
        "text__mask_tokens": (5,),
        "text__skip_positions": 2,
        "text__shuffle_buffer": 20,
        "evaluation__tokens": 100,
    }
    train, held_out = tokenise(path, tmp_path / "run", **changes)
    assert not (tmp_path / "run" / "tokens" / "portions").exists()
    assert train.num_sequences + held_out.num_sequences == 60
    for store in (train, held_out):
        assert store.one_document and store.manifest["made_from"]["text"]["packing"] == "one_document"
        assert store.manifest["made_from"]["text"]["seed"] == 0  # of the shuffling
        wanted = {"separator_id": None, "bos_id": 0, "special_ids": [0, 5], "masked_positions": 2, "context_length": 64}
        assert wanted.items() <= store.manifest.items()
        for k, name in enumerate(store.document_names):
            ids = [0, *rows[int(name.split(":")[1])]][:64]
            assert store.tokens[k, : len(ids)].tolist() == ids
            expected = [t >= 2 and t < len(ids) and ids[t] not in (0, 5) for t in range(64)]
            assert store.mask([k])[0].tolist() == expected


def test_every_position_counts_if_that_is_asked_for(tmp_path, texts):
    changes = {"text__skip_positions": 0, "text__mask_special_tokens": False}
    for store in tokenise(texts, tmp_path / "run", **changes):
        assert store.mask(np.arange(store.num_sequences)).all()
        assert 0 in store.tokens


CHAT = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("setting", "reason", "changes", "values"),
    [
        ("column", "has only text", {"text__column": "body"}, ["some text"]),
        ("paths", "holds no text", {}, ["", " "]),
        ("column", "holds token 4096; the language model knows only", {"text__content": "token_ids"}, [[4096]]),
        ("column", "must hold lists of token ids", {"text__content": "token_ids"}, ["some text"]),
        ("content", "has no chat template", {"text__content": "chat"}, [CHAT]),
        ("column", "must hold text; line 1 of", {}, [[1, 2]]),
        ("held_out_fraction", "leaves no document for the part train", {"text__compare_up_to": 0}, ["one " * 999]),
        ("held_out_fraction", "at least two different documents", {}, ["one " * 999]),
        ("separator", "nothing to separate", {"text__packing": "one_document", "text__separator": "eos"}, ["x"]),
        ("mask_tokens", "must be token ids from 0 to 4095", {"text__mask_tokens": (4096,)}, ["x"]),
        ("mask_tokens", "must be a tuple of token ids", {"text__mask_tokens": (-1,)}, ["x"]),
        ("skip_positions", "must be from 0 to 63", {"text__skip_positions": 64}, ["some text", "other words"]),
        ("context_length", "the text has only", {}, ["some text", "other words"]),
        ("packing", "must be one of across_documents, one_document", {"text__packing": "tight"}, ["x"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_leaves_nothing(tmp_path, setting, reason, changes, values):
    path = records(tmp_path / "a.jsonl", *values)
    with pytest.raises(SettingError) as raised:
        tokenise(path, tmp_path / "run", **changes)
    assert raised.value.setting == f"config.text.{setting}"
    assert reason in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


PROCESS = """
import sys
import jax
jax.distributed.initialize("127.0.0.1:" + sys.argv[1], 2, int(sys.argv[2]))
sys.path[:0] = ["tests"]
from pathlib import Path
import tiny_run
from gsae import config, tokenise
from gsae.job import Job
from gsae.text import portions
portions.PORTION_CHARACTERS = 1 << 16
seen = []
write = portions.write_portion
portions.write_portion = lambda directory, k, *rest: seen.append(k) or write(directory, k, *rest)
changes = {"text__compare_up_to": 1000, "text__shuffle_buffer": 3}
tokenise.tokenise(Job(config.parse(tiny_run.configuration(Path(sys.argv[3]), **changes)), Path(sys.argv[4]), ""))
print("encoded", seen)
"""


@pytest.mark.slow
def test_two_processes_make_the_stores_of_one(tmp_path, texts):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", PROCESS, port]
    both = [
        subprocess.Popen([*command, str(i), str(texts), str(tmp_path / "two")], stdout=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    encoded = [json.loads(text.rpartition("encoded")[2]) for text in said]
    assert all(encoded) and all(k % 2 == i for i, ks in enumerate(encoded) for k in ks)
    one = tokenise(texts, tmp_path / "one", text__compare_up_to=1000, text__shuffle_buffer=3)
    two = [TokenStore.open(tmp_path / "two" / "tokens" / part) for part in ("train", "held_out")]
    assert [store.fingerprint for store in one] == [store.fingerprint for store in two]
    assert not (tmp_path / "two" / "tokens" / "portions").exists()


@pytest.mark.slow
def test_a_whole_run_on_documents_in_rows_of_their_own(tmp_path, texts):
    """Rows with padding go through all stages."""
    long = tmp_path / "lines.jsonl"
    lines = [line for path in sorted(texts.iterdir()) for line in path.read_text().split("\n\n") if line.strip()]
    records(long, *lines)
    changes = {"text__packing": "one_document", "text__prepend_bos": "always", "activations__rows": 4096}
    pipeline.run(config.parse(tiny_run.configuration(long, **changes)), tmp_path / "run")
    with open(tmp_path / "run" / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and all(row["status"] == "ok" and 0 < float(row["ce_clean"]) < 9 for row in rows)
    store = TokenStore.open(tmp_path / "run" / "tokens" / "held_out")
    assert (store.documents_of(np.arange(store.num_sequences)) < 0).any()
