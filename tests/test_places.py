"""Places in buckets against a local server of each kind; what goes wrong is one line."""

from pathlib import Path

import pytest
from bucket_servers import BUCKET, FORBIDDEN

from gsae import artifacts, places
from gsae.errors import RunError, SettingError
from gsae.places import BucketPath, names, place, try_out


@pytest.fixture(params=["gs", "s3"])
def bucket(request):
    request.getfixturevalue({"gs": "google", "s3": "amazon"}[request.param])
    return f"{request.param}://{BUCKET}"


@pytest.fixture
def here(bucket, request):
    """A place that no other test uses."""
    return place(f"{bucket}/{request.node.originalname}")


def test_objects_are_written_read_listed_and_removed(here):
    assert names(here) == set() and not (here / "a").exists()
    artifacts.write_json(here / "a", {"x": 1})
    artifacts.write_file(here / "b" / "c", b"\0\xff")
    artifacts.write_file(here / "b" / "d", "x")
    artifacts.write_file(place(f"{here}0") / "neighbour", "not below")  # what comes next in the order of keys
    artifacts.write_file(place(f"{here}-") / "neighbour", "not below")
    assert (here / "a").read_text() == '{\n  "x": 1\n}\n' and (here / "b" / "c").read_bytes() == b"\0\xff"
    assert (here / "b" / "d").exists() and not (here / "b").exists()
    assert here.keys() == ["a", "b/c", "b/d"] and names(here) == {"a", "b"} and names(here / "b") == {"c", "d"}
    artifacts.write_file(here / "a", "again")
    assert (here / "a").read_text() == "again"
    (here / "b" / "d").unlink()
    (here / "b" / "d").unlink()
    assert here.keys() == ["a", "b/c"]
    here.remove_below()
    assert here.keys() == [] and (place(f"{here}0") / "neighbour").exists()
    with pytest.raises(FileNotFoundError, match=f"no object {here}/a"):
        (here / "a").read_bytes()


def test_an_artifact_in_a_bucket_is_verified_as_on_a_disk(here):
    artifacts.write_file(here / "x", b"what it holds")
    artifacts.write_json(here / "manifest.json", {"files": {"x": artifacts.described(here / "x")}})
    assert artifacts.verify(here)["files"]["x"]["bytes"] == 13
    for data, said in ((b"what it held", "has 12 bytes, the manifest says 13"), (b"what it HOLDS", "SHA-256 differs")):
        artifacts.write_file(here / "x", data)
        with pytest.raises(RunError, match=rf"{here}/x: .*{said}"):
            artifacts.verify(here)
    (here / "x").unlink()
    with pytest.raises(RunError, match=f"{here}/x: is missing"):
        artifacts.verify(here)
    (here / "manifest.json").unlink()
    with pytest.raises(RunError, match=f"{here}: is not a finished artifact"):
        artifacts.verify(here)


def test_a_bucket_that_is_not_there_is_one_line(bucket):
    nowhere = place(bucket.replace(BUCKET, "no-such-bucket") + "/store")
    for work in (lambda: try_out(nowhere), lambda: (nowhere / "x").write_bytes(b"x")):
        with pytest.raises(RunError, match=r"no-such-bucket/store.*: cannot be .*is there such a bucket") as error:
            work()
        assert "\n" not in str(error.value) and "http" not in str(error.value).lower()


def test_a_bucket_that_is_forbidden_is_one_line(google):
    there = place(f"gs://{FORBIDDEN}/store")
    for work in (lambda: try_out(there), lambda: (there / "x").write_bytes(b""), lambda: (there / "x").read_bytes()):
        with pytest.raises(RunError, match=r"PERMISSION_DENIED: .*docs/buckets\.md") as error:
            work()
        assert "\n" not in str(error.value)


def test_a_network_that_is_gone_is_one_line(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # where nobody listens
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setattr(places, "ANSWER_RETRIES", 1)
    with pytest.raises(RunError, match=r"s3://elsewhere/x/tried: cannot be read: .*connect") as error:
        try_out(place("s3://elsewhere/x"))
    assert "\n" not in str(error.value)


def test_a_place_is_tried_out_without_a_trace(here, tmp_path):
    try_out(here)
    assert here.keys() == []
    try_out(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_what_is_finished_need_not_be_writable(google):
    google.refused = {"POST": BUCKET}
    try:
        with pytest.raises(RunError, match="cannot be written: PERMISSION_DENIED"):
            try_out(place(f"gs://{BUCKET}/shared"), "manifest.json")
        google.refused = {}
        (place(f"gs://{BUCKET}/shared") / "manifest.json").write_bytes(b"{}")
        google.refused = {"POST": BUCKET}
        try_out(place(f"gs://{BUCKET}/shared"), "manifest.json")
    finally:
        google.refused = {}


def test_a_list_that_is_refused_is_noticed_though_it_looks_empty(google):
    here = place(f"gs://{BUCKET}/unlisted")
    google.refused = {"GET": f"/b/{BUCKET}/o?"}
    try:
        assert here.keys() == []
        with pytest.raises(RunError, match=f"{here}: cannot be listed; docs/buckets"):
            try_out(here)
    finally:
        google.refused = {}


def test_what_a_server_cannot_answer_is_asked_again(google, request):
    here = place(f"gs://{BUCKET}/{request.node.name}")
    google.requests.clear()
    google.every = 3
    try:
        for i in range(4):
            (here / str(i)).write_bytes(b"%d" % i)
        assert here.keys() == ["0", "1", "2", "3"] and (here / "3").read_bytes() == b"3"
    finally:
        google.every = 0
    assert len(google.requests) > 6


@pytest.mark.parametrize(
    "url",
    ["gs://", "gs:///store", "gs://UPPER/store", "gs://a/store", "http://bucket/store", "gcs://bucket/store",
     "file:///tmp", "gs://bucket//store", "gs://bucket/../store", "gs://bucket/a b", "s3://bucket/a?b", "gs://b*cket/a"],
)  # fmt: skip
def test_an_url_that_is_none_is_refused_by_name(url):
    with pytest.raises(SettingError, match=r"config\.activations\.store = .*: must be a directory, or gs://bucket"):
        place(url, "config.activations.store")


def test_what_is_written_in_a_setting_is_a_directory_or_an_url():
    assert place("runs/x") == Path("runs/x") and place(Path("/x")) == Path("/x")
    assert place("gs://my-bucket_1.x/a/b=c/") == BucketPath("gs", "my-bucket_1.x", "a/b=c")
    assert str(place("s3://bucket")) == "s3://bucket" and str(place("s3://bucket") / "a" / "b") == "s3://bucket/a/b"
    assert (place("s3://bucket") / "a" / "b").name == "b"
