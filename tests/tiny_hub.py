"""A hub on this machine: the addresses of Hugging Face's that downloads and commits ask for, and a record of who asked.

Large files go by git LFS's batch interface (set HF_HUB_DISABLE_XET, or the constant of that name).
"""

import base64
import hashlib
import http.server
import json
import threading
import urllib.parse


class Hub:
    """Repositories with branches, and every request as (method, path, authorization)."""

    def __init__(self):
        self.commits = {}  # repository -> commit -> file -> bytes
        self.branches = {}  # repository -> branch -> commit
        self.gated = set()
        self.readers = set()  # authorizations that may not write
        self.private = set()  # repositories that were made so
        self.large = {}  # SHA-256 -> bytes that were put for a commit to come
        self.requests = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                hub.requests.append((self.command, self.path, self.headers.get("Authorization")))
                status, headers, body = hub.answer(urllib.parse.urlsplit(self.path).path)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hub.requests.append((self.command, self.path, self.headers.get("Authorization")))
                if self.headers.get("Authorization") in hub.readers:
                    status, headers, body = 403, {}, b'{"error": "this token may not write"}'
                else:
                    status, headers, body = hub.take(urllib.parse.urlsplit(self.path).path, body)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_PUT = do_POST

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def commit(self, repository, files, branch="main"):
        """Puts files on a branch; gives the commit."""
        sha = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits.setdefault(repository, {})[sha] = dict(files)
        self.branches.setdefault(repository, {})[branch] = sha
        return sha

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def fetched(self):
        """The files whose bytes were asked for."""
        return {path.split("/", 5)[5] for method, path, _ in self.requests if method == "GET" and "/resolve/" in path}

    def answer(self, path):
        parts = path.strip("/").split("/")
        about, parts = parts[:2] == ["api", "models"], parts[2:] if parts[0] == "api" else parts
        if len(parts) < 4:
            return self.refusal(404, "RepoNotFound")
        repository, kind, revision, rest = "/".join(parts[:2]), parts[2], parts[3], "/".join(parts[4:])
        if repository not in self.commits:
            return self.refusal(404, "RepoNotFound")
        sha = self.branches[repository].get(revision, revision)
        if sha not in self.commits[repository]:
            return self.refusal(404, "RevisionNotFound")
        if repository in self.gated:
            return self.refusal(403, "GatedRepo")
        files = self.commits[repository][sha]
        if about and kind == "revision":
            return self.json({"id": repository, "sha": sha, "siblings": [{"rfilename": name} for name in files]})
        if about and kind == "tree":
            return self.json([self.entry(name, data) for name, data in files.items()])
        if rest not in files:
            return self.refusal(404, "EntryNotFound")
        etag = self.entry(rest, files[rest])["oid"]
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}, files[rest]

    def take(self, path, body):
        """What is posted and put: a new repository, how files are to come, large files, a commit."""
        if path.startswith("/lfs/"):
            self.large[hashlib.sha256(body).hexdigest()] = body
            return 200, {}, b""
        if path == "/api/repos/create":
            about = json.loads(body)
            name = f"{about['organization']}/{about['name']}"
            if name in self.commits:
                return 409, {"Content-Type": "application/json"}, json.dumps({"url": f"{self.address}/{name}"}).encode()
            self.commit(name, {})
            self.private |= {name} if about.get("visibility") == "private" else set()
            return self.json({"url": f"{self.address}/{name}"})
        if path == "/api/validate-yaml":
            well = json.loads(body)["content"].startswith("---\nlibrary_name: ")
            return self.json({"errors": [] if well else [{"message": "no metadata"}], "warnings": []})
        if path.endswith(".git/info/lfs/objects/batch"):
            put = {"actions": {"upload": {"href": f"{self.address}/lfs/"}}}
            return self.json({"transfer": "basic", "objects": [about | put for about in json.loads(body)["objects"]]})
        _, _, owner, name, kind, revision = path.strip("/").split("/")
        if kind == "preupload":
            modes = {True: "lfs", False: "regular"}
            files = [about["path"] for about in json.loads(body)["files"]]
            return self.json(
                {"files": [{"path": f, "uploadMode": modes[self.is_large(f)], "shouldIgnore": False} for f in files]}
            )
        repository = f"{owner}/{name}"
        files = dict(self.commits[repository][self.branches[repository][revision]])
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "lfsFile":
                files[entry["value"]["path"]] = self.large[entry["value"]["oid"]]
        sha = self.commit(repository, files, revision)
        return self.json({"commitUrl": f"{self.address}/{repository}/commit/{sha}", "commitOid": sha})

    @staticmethod
    def is_large(name):
        """A file that the hub keeps by its SHA-256."""
        return name.endswith((".safetensors", ".pt", ".npz"))

    def entry(self, name, data):
        """A large file is stored by its SHA-256, a small one by git's SHA-1."""
        digest = hashlib.sha256(data).hexdigest()
        if self.is_large(name):
            return {"type": "file", "path": name, "size": len(data), "oid": digest}
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def json(self, value):
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()

    def refusal(self, status, code):
        return status, {"X-Error-Code": code, "X-Error-Message": code}, b""
