import json
import sys
import sysconfig
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from gsae.errors import RunError, SettingError
from gsae.text import sources
from gsae.text.sources import Document, fingerprint, hugging_face, local_files, python_standard_library, read_documents


def parquet(path, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def jsonl(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_standard_library_has_the_interpreters_own_modules_and_no_tests():
    documents = python_standard_library()
    names = [document.name for document in documents]
    assert names == sorted(set(names))
    assert {"os.py", "asyncio/base_events.py", "encodings/cp037.py", "unittest/case.py", "doctest.py"} <= set(names)
    assert len(names) > 500 and sum(len(document.text) for document in documents) > 8_000_000
    for name in names:
        parts = Path(name).parts
        assert parts[0].removesuffix(".py") in sys.stdlib_module_names
        assert not {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"} & set(parts)
        assert "_sysconfigdata" not in name and "bundled" not in name
    assert all(document.text.strip() for document in documents)


def test_standard_library_ignores_what_lies_beside_it(tmp_path, monkeypatch):
    for name in ("os.py", "json/__init__.py", "json/tool.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"name = {name!r}\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    alone = python_standard_library()
    assert [document.name for document in alone] == ["json/__init__.py", "json/tool.py", "os.py"]
    for name in (
        "site-packages/json.py",
        "dist-packages/os.py",
        "sitecustomize.py",
        "_sysconfigdata__linux.py",
        "config-3.11-x86_64/makesetup.py",
        "json/tests/case.py",
        "json/test_tool.py",
        "json/__pycache__/tool.pyc",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / "json/scanner.py").write_text(" \n")  # blank
    (tmp_path / "json/encoder.py").write_bytes(b"x = '\xff'\n")  # not UTF-8, and declares nothing else
    assert python_standard_library() == alone
    (tmp_path / "json/decoder.py").write_bytes("# -*- coding: latin-1 -*-\nx = 'é'\n".encode("latin-1"))
    assert "é" in next(d.text for d in python_standard_library() if d.name == "json/decoder.py")


def test_fingerprint_sees_names_texts_order_and_borders():
    documents = [Document("a", "bc"), Document("d", "e")]
    others = [
        [Document("ab", "c"), Document("d", "e")],
        [Document("a", "bc"), Document("d", "f")],
        [Document("a", "bcd"), Document("", "e")],
        documents[::-1],
        documents[:1],
    ]
    assert fingerprint(iter(documents)) == fingerprint(documents)
    assert len({fingerprint(documents), *map(fingerprint, others)}) == 6


def test_local_files_reads_each_kind_and_skips_blank_texts(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "one.txt").write_text("first\n")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "ignored.md").write_text("not one of the kinds\n")
    jsonl(tmp_path / "sub/two.jsonl", {"text": "second", "n": 1}, {"text": None}, {"text": "third"})
    parquet(tmp_path / "sub/three.parquet", text=["fourth", None, "fifth"], n=[1, 2, 3])
    expected = [
        Document("one.txt", "first\n"),
        Document("sub/three.parquet:0", "fourth"),
        Document("sub/three.parquet:2", "fifth"),
        Document("sub/two.jsonl:0", "second"),
        Document("sub/two.jsonl:2", "third"),
    ]
    assert local_files([str(tmp_path)]) == expected
    assert local_files([str(tmp_path / "**" / "*")]) == expected
    # Given twice, read once; the first mention decides order and name.
    again = local_files([str(tmp_path / "sub/two.jsonl"), str(tmp_path)])
    assert [document.name for document in again] == [
        "two.jsonl:0", "two.jsonl:2", "one.txt", "sub/three.parquet:0", "sub/three.parquet:2"
    ]  # fmt: skip


def test_local_files_of_the_same_name_keep_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.txt").write_text(folder)
    documents = local_files([str(tmp_path / "a"), str(tmp_path / "b")])
    assert [document.text for document in documents] == ["a", "b"]
    assert len({document.name for document in documents}) == 2


def test_other_columns(tmp_path):
    jsonl(tmp_path / "a.jsonl", {"body": "x"})
    parquet(tmp_path / "b.parquet", body=["y"])
    documents = read_documents("files", paths=[str(tmp_path)], column="body")
    assert [document.text for document in documents] == ["x", "y"]


def test_max_documents_reads_no_further(tmp_path):
    jsonl(tmp_path / "a.jsonl", {"text": "x"}, {"text": "y"})
    (tmp_path / "b.jsonl").write_text("this is not JSON\n")
    assert len(read_documents("files", paths=[str(tmp_path)], max_documents=2)) == 2


def wrong(tmp_path, name):
    """A setting, what is wrong with it, and what the message must name."""
    path = tmp_path / name
    if name == "bad.jsonl":
        path.write_text('{"text": "x"}\n{"text": \n')
        return "config.text.paths", "line 2 of"
    if name == "list.jsonl":
        path.write_text('["x"]\n')
        return "config.text.paths", "JSON object"
    if name == "column.jsonl":
        jsonl(path, {"body": "x", "title": "y"})
        return "config.text.column", "body, title"
    if name == "number.jsonl":
        jsonl(path, {"text": 3})
        return "config.text.column", "holds int"
    if name == "column.parquet":
        parquet(path, body=["x"], title=["y"])
        return "config.text.column", "body, title"
    if name == "bad.parquet":
        path.write_bytes(b"PAR1 and nothing else")
        return "config.text.paths", "not a readable parquet"
    if name == "latin.txt":
        path.write_bytes(b"caf\xe9 au lait")
        return "config.text.paths", "must be UTF-8"
    if name == "kind.csv":
        path.write_text("x")
        return "config.text.paths", ".txt, .jsonl or .parquet"
    if name == "blank.txt":
        path.write_text("\n \n")
        return "config.text.paths", "holds no text"
    if name == "empty":
        path.mkdir()
        return "config.text.paths", "leads to no text file"
    return "config.text.paths", {"absent": "does not exist", "*.txt": "leads to no text file"}[name]


@pytest.mark.parametrize(
    "name",
    ["bad.jsonl", "list.jsonl", "column.jsonl", "number.jsonl", "column.parquet", "bad.parquet", "latin.txt",
     "kind.csv", "blank.txt", "empty", "absent", "*.txt"],
)  # fmt: skip
def test_wrong_files_are_named_in_one_line(tmp_path, name):
    setting, reason = wrong(tmp_path, name)
    with pytest.raises(SettingError) as raised:
        read_documents("files", paths=[str(tmp_path / name)])
    assert raised.value.setting == setting
    assert reason in str(raised.value) and name in str(raised.value) and "\n" not in str(raised.value)


def test_wrong_settings():
    for setting, arguments in {
        "config.text.source": {"source": "the web"},
        "config.text.paths": {"source": "files"},
        "config.text.max_documents": {"source": "python_standard_library", "max_documents": 0},
        "config.text.name": {"source": "hugging_face"},
    }.items():
        with pytest.raises(SettingError) as raised:
            read_documents(**arguments)
        assert raised.value.setting == setting
    with pytest.raises(SettingError, match="python_standard_library, files, hugging_face"):
        read_documents("the web")


def test_interpreter_without_sources_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(SettingError, match=r"config\.text\.source .*holds no text"):
        read_documents("python_standard_library")


@pytest.fixture
def data_set(tmp_path, monkeypatch):
    """A directory that `datasets` itself loads, with two splits; nothing is left in the user's cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data_set"
    folder.mkdir()
    parquet(folder / "train-00000.parquet", text=["one", "", "three"], n=[1, 2, 3])
    parquet(folder / "test-00000.parquet", text=["four"], n=[4])
    return str(folder)


@pytest.mark.parametrize("streaming", [True, False])
def test_hugging_face(data_set, streaming):
    read = list(hugging_face(data_set, streaming=streaming))
    assert read == [Document("train:0", "one"), Document("train:2", "three")]
    assert list(hugging_face(data_set, split="test", streaming=streaming)) == [Document("test:0", "four")]
    assert read_documents("hugging_face", name=data_set, streaming=streaming, max_documents=1) == read[:1]
    for setting, arguments, reason in (
        ("split", {"split": "validation"}, "test"),
        ("configuration", {"configuration": "english"}, "default"),
        ("column", {"column": "body"}, "text, n"),
        ("column", {"column": "n"}, "holds int"),
        ("name", {"name": data_set + "_absent"}, "could not be opened"),
    ):
        with pytest.raises(SettingError) as raised:
            read_documents("hugging_face", **{"name": data_set, "streaming": streaming, **arguments})
        assert raised.value.setting == f"config.text.{setting}"
        assert reason in str(raised.value) and "\n" not in str(raised.value)


def test_data_set_that_breaks_off_is_an_error(data_set, monkeypatch):
    def breaks_off(*_):
        yield {"text": "one"}
        raise ConnectionError("the line\nwent dead")

    monkeypatch.setattr(sources, "_open_data_set", breaks_off)
    with pytest.raises(RunError, match="past row 1: the line went dead"):
        list(hugging_face(data_set))
