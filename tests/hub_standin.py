"""A stand-in for the hub on this machine: the part of its HTTP API that an upload uses, with files kept in memory.

Written after what huggingface_hub 2.4 sends and reads: model info, create, validate-yaml, preupload, the batch
interface of Git LFS with its upload and verification, commits as lines of JSON, and downloads.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

TOKEN = "hf_" + "standin" * 4


class Standin:
    """The server; as a context manager it runs."""

    def __init__(self) -> None:
        self.repos: dict[str, dict] = {}
        """Name -> {private, files: path -> bytes, commits: number of them, card: what the card says}."""
        self.blobs: dict[str, bytes] = {}
        """Digest -> bytes that came by LFS."""
        self.fails: dict[str, int] = {}
        """Part of a request line -> status that it gets."""
        self.asked: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Standin:
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def make(self, name: str, private: bool = False, card: dict | None = None, **files: bytes) -> None:
        files = {".gitattributes": b"", **files}
        self.repos[name] = {"private": private, "files": files, "commits": 1, "card": card or {}}

    def sha(self, name: str) -> str:
        return hashlib.sha1(f"{name} {self.repos[name]['commits']}".encode()).hexdigest()


@contextlib.contextmanager
def taken_for_the_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    """Within this block the client takes a stand-in for the hub, and its token for the user's."""
    with Standin() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        huggingface_hub.utils._http.close_session()
        yield server
    huggingface_hub.utils._http.close_session()


def download(hub: Standin, folder: Path, repo: str) -> Path:
    """A repository as a folder."""
    for path, content in hub.repos[repo]["files"].items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


class _Handler(BaseHTTPRequestHandler):
    hub: Standin
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, content: object = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _do(self) -> None:
        body, path = self._body(), unquote(urlsplit(self.path).path)
        line = f"{self.command} {path}"
        self.hub.asked.append(line)
        for part, status in self.hub.fails.items():
            if part in line:
                self._answer(status, {"error": "as the test wants it"})
                return
        if not path.startswith("/lfs/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
            return
        routes = [
            (r"GET /api/models/([^/]+/[^/]+)", self._info),
            (r"POST /api/repos/create()", self._create),
            (r"POST /api/validate-yaml()", self._validate),
            (r"POST /api/models/(.+)/preupload/main", self._preupload),
            (r"POST /(.+)\.git/info/lfs/objects/batch", self._batch),
            (r"PUT /lfs/(\w+)", self._put),
            (r"POST /lfs-verify/(\w+)", self._verify),
            (r"POST /api/models/(.+)/commit/main", self._commit),
            (r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/[^/]+/.+", self._resolve),
        ]
        for pattern, work in routes:
            if found := re.fullmatch(pattern, line):
                work(found[1], body)
                return
        self._answer(404, {"error": f"the stand-in does not know {line}"})

    do_GET = do_POST = do_PUT = do_HEAD = _do

    def _info(self, name: str, _: bytes) -> None:
        if name not in self.hub.repos:
            self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return
        repo = self.hub.repos[name]
        siblings = [{"rfilename": path} for path in sorted(repo["files"])]
        about = {"id": name, "sha": self.hub.sha(name), "private": repo["private"], "siblings": siblings}
        self._answer(200, {**about, "cardData": repo["card"]})

    def _create(self, _: str, body: bytes) -> None:
        said = json.loads(body)
        name = f"{said['organization']}/{said['name']}"
        if name in self.hub.repos:
            self._answer(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
            return
        self.hub.make(name, private=said.get("visibility") == "private" or bool(said.get("private")))
        self._answer(200, {"url": f"{self.hub.url}/{name}", "name": name})

    def _validate(self, _: str, body: bytes) -> None:
        self._answer(200, {"errors": [], "warnings": []})

    def _preupload(self, name: str, body: bytes) -> None:
        files = json.loads(body)["files"]
        for file in files:
            base64.b64decode(file["sample"], validate=True)
        modes = {
            f["path"]: "lfs" if f["path"].endswith(".safetensors") or f["size"] > 500_000 else "regular" for f in files
        }
        self._answer(
            200, {"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]}
        )

    def _batch(self, name: str, body: bytes) -> None:
        objects = []
        for one in json.loads(body)["objects"]:
            actions = {
                "upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"},
                "verify": {"href": f"{self.hub.url}/lfs-verify/{one['oid']}"},
            }
            objects.append({**one, **({} if one["oid"] in self.hub.blobs else {"actions": actions})})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _put(self, oid: str, body: bytes) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.blobs[oid] = body
        self._answer(200, {})

    def _verify(self, oid: str, body: bytes) -> None:
        self._answer(200 if len(self.hub.blobs[oid]) == json.loads(body)["size"] else 400, {})

    def _commit(self, name: str, body: bytes) -> None:
        repo, parent = self.hub.repos[name], None
        files = dict(repo["files"])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                parent = value.get("parentCommit")
                repo["title"] = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        if parent not in (None, self.hub.sha(name)):
            self._answer(412, {"error": "A commit has happened since. Please refresh and try again."})
            return
        repo["files"], repo["commits"] = files, repo["commits"] + 1
        sha = self.hub.sha(name)
        self._answer(200, {"success": True, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha})

    def _resolve(self, name: str, _: bytes) -> None:
        path = unquote(urlsplit(self.path).path).split("/", 5)[5]
        content = self.hub.repos.get(name, {"files": {}})["files"].get(path)
        if content is None:
            self._answer(
                404, {"error": "not there"}, X_Error_Code="EntryNotFound" if name in self.hub.repos else "RepoNotFound"
            )
            return
        etag = hashlib.sha256(content).hexdigest()
        self._answer(200, content, X_Repo_Commit=self.hub.sha(name), ETag=f'"{etag}"')
