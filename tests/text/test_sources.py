import json
import sys
import sysconfig
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from gsae.errors import SettingError
from gsae.text.content import Content
from gsae.text.documents import Document, fingerprint
from gsae.text.sources import open_source, python_standard_library


def local_files(paths, column="text"):
    return list(open_source("files", paths=paths, content=Content(column=column)).read())


def arrow(path, write, **columns):
    table = pyarrow.table(columns)
    with write(str(path), table.schema) as file:
        file.write_table(table, max_chunksize=2)


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
    arrow(tmp_path / "sub/a.arrow", pyarrow.ipc.new_stream, text=["zeroth", None, "", "and a half"])
    arrow(tmp_path / "sub/b.arrow", pyarrow.ipc.new_file, n=[1, 2], text=[" ", "file format"])
    expected = [
        Document("one.txt", "first\n"),
        Document("sub/a.arrow:0", "zeroth"),
        Document("sub/a.arrow:3", "and a half"),
        Document("sub/b.arrow:1", "file format"),
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
        "two.jsonl:0", "two.jsonl:2", "one.txt", "sub/a.arrow:0", "sub/a.arrow:3", "sub/b.arrow:1",
        "sub/three.parquet:0", "sub/three.parquet:2",
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
    (tmp_path / "c.txt").write_text("z")
    assert [document.text for document in local_files([str(tmp_path)], column="body")] == ["x", "y", "z"]


def test_a_reading_goes_on_after_any_document(tmp_path):
    for name in ("a", "b"):
        jsonl(tmp_path / f"{name}.jsonl", *({"text": text} for text in ("x", "", "y", "z", " ")))
        (tmp_path / f"{name}.txt").write_text(name)
    source = open_source("files", paths=[str(tmp_path)])
    everything = list(source.read())
    assert len(everything) == 8
    reading = source.read()
    for number, document in enumerate(reading, 1):
        assert document == everything[number - 1]
        assert list(source.read(json.loads(json.dumps(reading.position())))) == everything[number:]
    library = open_source("python_standard_library")
    reading = library.read()
    first = next(iter(reading))
    assert [first, *library.read(reading.position())] == python_standard_library()


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
        return "config.text.paths", ".txt, .jsonl, .parquet or .arrow"
    if name == "bad.arrow":
        path.write_bytes(b"ARROW1 and nothing else")
        return "config.text.paths", "not a readable arrow"
    if name == "column.arrow":
        arrow(path, pyarrow.ipc.new_stream, body=["x"], title=["y"])
        return "config.text.column", "body, title"
    if name == "empty":
        path.mkdir()
        return "config.text.paths", "leads to no text file"
    return "config.text.paths", {"absent": "does not exist", "*.txt": "leads to no text file"}[name]


@pytest.mark.parametrize(
    "name",
    ["bad.jsonl", "list.jsonl", "column.jsonl", "number.jsonl", "column.parquet", "bad.parquet", "latin.txt",
     "kind.csv", "bad.arrow", "column.arrow", "empty", "absent", "*.txt"],
)  # fmt: skip
def test_wrong_files_are_named_in_one_line(tmp_path, name):
    setting, reason = wrong(tmp_path, name)
    with pytest.raises(SettingError) as raised:
        local_files([str(tmp_path / name)])
    assert raised.value.setting == setting
    assert reason in str(raised.value) and name in str(raised.value) and "\n" not in str(raised.value)


def test_wrong_settings():
    for setting, arguments in {
        "config.text.source": {"source": "the web"},
        "config.text.paths": {"source": "files"},
        "config.text.content": {"source": "python_standard_library", "content": Content("chat")},
    }.items():
        with pytest.raises(SettingError) as raised:
            open_source(**arguments)
        assert raised.value.setting == setting
    with pytest.raises(SettingError, match="python_standard_library, files, hugging_face"):
        open_source("the web")
