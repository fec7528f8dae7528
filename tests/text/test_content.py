import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from gsae.errors import SettingError
from gsae.text.content import Content
from gsae.text.sources import open_source


def render(messages):
    if any(message["role"] == "nobody" for message in messages):
        raise ValueError("nobody\nspeaks")
    return "".join(f"<{message['role']}>{message['content']}" for message in messages)


CHAT = Content("chat", "messages", render=render)
IDS = Content("token_ids", "input_ids", vocabulary=100)
HELLO = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "what?"}]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_token_ids_and_chats_come_from_files(tmp_path, suffix):
    records = [
        {"input_ids": [3, 99, 0], "messages": HELLO},
        {"input_ids": None, "messages": None},
        {"input_ids": [], "messages": []},
        {"input_ids": [7], "messages": HELLO[:1]},
    ]
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    ids = list(open_source("files", paths=[str(path)], content=IDS).read())
    assert [(d.name, d.text, d.ids.tolist()) for d in ids] == [
        (f"a.{suffix}:0", "", [3, 99, 0]),
        (f"a.{suffix}:3", "", [7]),
    ]
    assert ids[0].ids.dtype == np.int64 and ids[0].size == ids[0].characters == 12
    chats = list(open_source("files", paths=[str(path)], content=CHAT).read())
    assert [d.text for d in chats] == ["<user>hello<assistant>what?", "<user>hello"]


@pytest.mark.parametrize(
    ("content", "value", "reason"),
    [
        (Content(column="x"), [1, 2], "must hold text; row 3 holds list; config.text.content says"),
        (Content(column="x"), 3, "must hold text; row 3 holds int"),
        (Content("token_ids", "x", 100), "some text", "must hold lists of token ids; row 3 holds str"),
        (Content("token_ids", "x", 100), [1.5], "must hold lists of token ids"),
        (Content("token_ids", "x", 100), [[1], [2]], "must hold lists of token ids"),
        (Content("token_ids", "x", 100), [[1], [2, 3]], "must hold lists of token ids"),
        (Content("token_ids", "x", 100), [1, 100], "row 3 holds token 100; the language model knows only 0 to 99"),
        (Content("token_ids", "x", 100), [1, -1], "row 3 holds token -1"),
        (Content("chat", "x", render=render), "text", "must hold lists of messages with role and content"),
        (Content("chat", "x", render=render), [{"role": "user"}], "must hold lists of messages"),
        (
            Content("chat", "x", render=render),
            [{"role": "nobody", "content": ""}],
            "the chat template refuses row 3: nobody speaks",
        ),
    ],
)
def test_something_else_is_refused(content, value, reason):
    with pytest.raises(SettingError) as raised:
        content.document("name", {"x": value, "y": 0}, "row 3")
    assert raised.value.setting == "config.text.column"
    assert reason in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(SettingError, match="row 3 has only y, z"):
        content.document("name", {"y": value, "z": 0}, "row 3")
