"""Local object stores that tests start: a server of Google's JSON interface, and one of Amazon's S3.

What runs against them finds them by the environment variables of the libraries that make the requests: no code of ours
knows that they are not the real ones.
"""

import contextlib
import json
import logging
import os
import re
import threading
import urllib.request
from functools import partial
from http.server import ThreadingHTTPServer

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

    def error(self, method, path, buckets):
        """The HTTP status of a request that is not to be answered as usual; 0 for all others."""
        self.requests.append(f"{method} {path}")
        if self.every and len(self.requests) % self.every == 0:
            return 503
        if f"/b/{FORBIDDEN}/" in path or self.refused.get(method, "nothing") in path:
            return 403
        named = re.search(r"/b/([^/]+)/", path)
        return 404 if named and named[1] not in buckets else 0


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

        def answer(self, usual):
            with one_at_a_time:  # its storage is not made for several threads
                status = server.error(self.command, self.path, storage.buckets)
                if not status:
                    return usual()
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = json.dumps({"error": {"code": status, "message": "refused"}}).encode()  # as Google says it
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

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

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, storage)) as http:
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
