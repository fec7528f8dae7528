"""Data sets in local directories: `datasets` reads them by the code that reads those on the hub."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from gsae.errors import RunError, SettingError
from gsae.text.content import Content
from gsae.text.data_sets import DataSet
from gsae.text.documents import Document


def parquet(path, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=2)


@pytest.fixture
def data_set(tmp_path, monkeypatch):
    """A directory of data files with two splits; nothing is left in the user's cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data_set"
    folder.mkdir()
    parquet(folder / "train-00000.parquet", text=["one", "", "three", "four", None], n=[1, 2, 3, 4, 5])
    parquet(folder / "train-00001.parquet", text=["six", "seven", "eight"], n=[6, 7, 8])
    parquet(folder / "test-00000.parquet", text=["four"], n=[4])
    return str(folder)


@pytest.fixture
def saved(tmp_path):
    """What `save_to_disk` writes: of one data set, and of two splits."""
    import datasets

    one = datasets.Dataset.from_dict({"text": ["x", " ", "z"], "input_ids": [[1, 2], [3], [4]]})
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": one, "test": one.select([2])}).save_to_disk(tmp_path / "two")
    return tmp_path


def source(name, streaming=True, configuration="", split="train", content=None):
    return DataSet(name, configuration=configuration, split=split, streaming=streaming, content=content or Content())


TRAIN = [Document(f"train:{i}", text) for i, text in ((0, "one"), (2, "three"), (3, "four"), (5, "six"), (6, "seven"), (7, "eight"))]  # fmt: skip # noqa: E501


@pytest.mark.parametrize("streaming", [True, False])
def test_every_document_and_from_every_position_on(data_set, streaming):
    assert list(source(data_set, streaming).read()) == TRAIN
    assert list(source(data_set, streaming, split="test").read()) == [Document("test:0", "four")]
    reading = source(data_set, streaming).read()
    assert reading.total in (8, None) and (streaming or reading.total == 8)
    for number, document in enumerate(reading, 1):
        assert document == TRAIN[number - 1]
        position = json.loads(json.dumps(reading.position()))
        assert list(source(data_set, streaming).read(position)) == TRAIN[number:]


@pytest.mark.parametrize("streaming", [True, False])
def test_what_is_wrong_is_named(data_set, streaming):
    for setting, arguments, reason in (
        ("split", {"split": "validation"}, "test"),
        ("configuration", {"configuration": "english"}, "default"),
        ("column", {"content": Content(column="body")}, "text, n"),
        ("column", {"content": Content(column="n")}, "holds int"),
        ("name", {"name": data_set + "_absent"}, "could not be opened"),
        ("name", {"name": ""}, "must be a data set"),
    ):
        with pytest.raises(SettingError) as raised:
            list(source(**{"name": data_set, "streaming": streaming, **arguments}).read())
        assert raised.value.setting == f"config.text.{setting}"
        assert reason in str(raised.value) and "\n" not in str(raised.value)


def test_a_slice_of_a_split(data_set):
    assert [d.text for d in source(data_set, streaming=False, split="train[2:4]").read()] == ["three", "four"]


@pytest.mark.parametrize("streaming", [True, False])
def test_directories_saved_by_datasets(saved, streaming):
    expected = [Document("train:0", "x"), Document("train:2", "z")]
    assert list(source(str(saved / "one"), streaming).read()) == expected
    assert list(source(str(saved / "two"), streaming).read()) == expected
    reading = source(str(saved / "two"), streaming, split="test").read()
    assert list(reading) == [Document("test:0", "z")] and reading.total == 1
    ids = source(str(saved / "one"), streaming, content=Content("token_ids", "input_ids", 5))
    assert [d.ids.tolist() for d in ids.read()] == [[1, 2], [3], [4]]


def test_what_is_wrong_with_a_saved_directory_is_named(saved):
    one = str(saved / "one")
    (saved / "damaged").mkdir()
    (saved / "damaged" / "state.json").write_text("{}")
    for setting, arguments, reason in (
        ("split", {"name": one, "split": "test"}, "has only train"),
        ("split", {"name": str(saved / "two"), "split": "dev"}, "has only train, test"),
        ("configuration", {"name": one, "configuration": "en"}, "has no configurations"),
        ("column", {"name": one, "content": Content(column="body")}, "text, input_ids"),
        ("column", {"name": one, "content": Content("token_ids", "input_ids", 4)}, "holds token 4"),
        ("name", {"name": str(saved / "damaged")}, "is not a readable directory saved by datasets"),
    ):
        with pytest.raises(SettingError) as raised:
            list(source(**arguments).read())
        assert raised.value.setting == f"config.text.{setting}"
        assert reason in str(raised.value) and "\n" not in str(raised.value)


def test_a_data_set_that_breaks_off_is_an_error(data_set):
    """The last file is cut after the first ones were read."""
    path = f"{data_set}/train-00001.parquet"
    reading = iter(source(data_set).read())
    assert next(reading).text == "one"
    with open(path, "r+b") as file:
        file.seek(4)
        file.write(b"\xff" * 40)
    with pytest.raises(RunError, match=r"could not be read past row [5-8]: ") as raised:
        list(reading)
    assert "\n" not in str(raised.value)


def test_the_revision_reaches_the_hub_and_is_a_part_of_what_the_text_is(data_set, monkeypatch):
    import datasets

    asked, real = [], datasets.load_dataset

    def load(name, *args, **kwargs):
        asked.append(kwargs.pop("revision", None))
        return real(data_set, *args, **kwargs)

    monkeypatch.setattr(datasets, "load_dataset", load)
    made = {
        revision: DataSet(
            "owner/name", configuration="", split="train", streaming=True, content=Content(), revision=revision
        )
        for revision in ("main", "v2")
    }
    assert all(list(each.read()) == TRAIN for each in made.values())
    assert asked == [None, "v2"]
    assert made["main"].identity != made["v2"].identity
    local = DataSet(data_set, configuration="", split="train", streaming=True, content=Content(), revision="v2")
    assert list(local.read()) == TRAIN and asked[-1] is None
