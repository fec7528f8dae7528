"""Local object stores that tests start: a server of Google's JSON interface, and one of Amazon's S3.

    python tests/bucket_servers.py COMMAND ...    runs a command that finds them, each with a bucket called "bucket"

What runs against them finds them by the environment variables of the libraries that make the requests: no code of ours
knows that they are not the real ones.
"""

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import urllib.request
from functools import partial
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET, FORBIDDEN = "bucket", "forbidden-bucket"


class Server:
    """A running server.

    Attributes:
        environment: what a process needs to find it.
        requests: "METHOD path" of every request since `requests.clear()`.
        every: each so many requests one is answered with 503 instead; 0 for none.
        refused: by method, a part of the path of the requests that are answered with 403.
    """

    def __init__(self):
        self.environment, self.requests, self.every, self.refused = {}, [], 0, {}

    def error(self, method, path, known):
        """The HTTP status of a request that is not to be answered as usual; 0 for all others."""
        self.requests.append(f"{method} {path}")
        if self.every and len(self.requests) % self.every == 0:
            return 503
        if f"/b/{FORBIDDEN}/" in path or (method in self.refused and self.refused[method] in path):
            return 403
        return 0 if known else 404


@contextlib.contextmanager
def google_server():
    """A server that speaks Google's JSON interface, with `BUCKET`, and `FORBIDDEN`, which it lets nobody into."""
    from gcp_storage_emulator.handlers import buckets
    from gcp_storage_emulator.server import RequestHandler
    from gcp_storage_emulator.storage import Storage

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    server, one_at_a_time, storage = Server(), threading.Lock(), Storage(use_memory_fs=True)
    buckets.create_bucket(BUCKET, storage)
    buckets.create_bucket(FORBIDDEN, storage)

    class Handler(RequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept, as the real server does
        disable_nagle_algorithm = True  # or each answer on a kept connection takes 40 ms
        generation = "0"  # of the object that is asked for

        def answer(self, usual):
            with one_at_a_time:  # its storage is not made for several threads
                bucket, generation = self.bucket_and_generation()
                self.generation = generation
                known = bucket is None or bucket in storage.buckets
                status = server.error(self.command, self.path, known) or self.unmet(generation)
                if not status:
                    return usual()
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                said = json.dumps({"error": {"code": status, "message": "refused"}}).encode()  # as Google says it
                body = b"" if status == 304 else said
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def bucket_and_generation(self):
            """Which bucket a request is about, and the generation of its object: "0" for one that is not there."""
            url = urlsplit(self.path)
            found = re.search(r"/b/([^/]+)(?:/o(?:/(.+))?)?$", url.path)
            bucket, name = found.groups() if found else (None, None)
            name = unquote(name or parse_qs(url.query).get("name", [""])[0])
            return bucket, storage.objects.get(bucket, {}).get(name, {}).get("generation", "0")

        def unmet(self, generation):
            """The status of a condition that does not hold; the package does not look at them, and TensorStore does."""
            query = parse_qs(urlsplit(self.path).query)
            if query.get("ifGenerationMatch", [generation]) != [generation]:
                return 412
            return 304 if query.get("ifGenerationNotMatch") == [generation] else 0

        def end_headers(self):
            if self.generation != "0":
                self.send_header("x-goog-generation", self.generation)
            super().end_headers()

        def do_GET(self):
            self.answer(super().do_GET)

        def do_POST(self):
            self.answer(super().do_POST)

        def do_PUT(self):
            self.answer(super().do_PUT)

        def do_PATCH(self):
            self.answer(super().do_PATCH)

        def do_DELETE(self):
            self.answer(super().do_DELETE)

    class Http(ThreadingHTTPServer):
        request_queue_size = 64  # as many as TensorStore opens at once

        def handle_error(self, *about):
            if not isinstance(sys.exception(), ConnectionError):  # whoever asked was killed, or wants it no more
                super().handle_error(*about)

    with Http(("127.0.0.1", 0), partial(Handler, storage)) as http:
        url = f"http://127.0.0.1:{http.server_port}"
        # TensorStore's own variable, and the one of Google's client libraries, which Orbax's requests go through.
        server.environment = {"TENSORSTORE_GCS_HTTP_URL": url, "STORAGE_EMULATOR_HOST": url}
        threading.Thread(target=http.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            http.shutdown()


@contextlib.contextmanager
def amazon_server():
    """A server that speaks Amazon's S3, with `BUCKET`."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    server = Server()
    url = "http://{}:{}".format(*moto.get_host_and_port())
    server.environment = {
        "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    try:
        urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT")).read()
        yield server
    finally:
        moto.stop()


@contextlib.contextmanager
def found_by_this_process(server):
    """Sets the environment of a server."""
    before = {name: os.environ.get(name) for name in server.environment}
    os.environ.update(server.environment)
    try:
        yield server
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


if __name__ == "__main__":
    with google_server() as google, amazon_server() as amazon:
        sys.exit(subprocess.call(sys.argv[1:], env=os.environ | google.environment | amazon.environment))
