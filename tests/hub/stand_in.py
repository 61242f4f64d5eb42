"""A stand-in of the Hub's HTTP interface: what huggingface_hub calls for repositories, commits, LFS and downloads.

Written after the requests of huggingface_hub 1.0 and 2.4. Files above ``LARGE`` bytes, and safetensors, go by LFS, as
on the Hub.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_secret_of_this_test"


@dataclass
class Repository:
    """One repository: its branches, the newest commit of each, and the files of every commit."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def add(self, files: dict[str, bytes], branch: str = "main") -> str:
        before = self.commits.get(self.branches.get(branch, ""), {})
        digest = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[digest] = {**before, **files}
        self.branches[branch] = digest
        return digest

    def find(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)


@dataclass
class Hub:
    """What the server has, and what it was asked."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    cards: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)  # files that arrive with another byte

    def put(self, name: str, files: dict[str, bytes]) -> None:
        self.repositories.setdefault(name, Repository()).add(files)


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, value: Any = None, status: int = 200, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for key, each in headers.items():
            self.send_header(key.replace("_", "-"), each)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, message: str) -> None:
        self.answer({"error": message}, status, X_Error_Code=code, X_Error_Message=message)

    def content(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def signed_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_POST(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append(f"POST {path}")
        body = self.content()
        if path == "/api/validate-yaml":
            self.hub.cards.append(json.loads(body)["content"])
            return self.answer({"errors": [], "warnings": []})
        if not self.signed_in():
            return self.refuse(401, "", "Invalid username or password.")
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] != "someone":
                return self.refuse(403, "", "You don't have the rights to create a model under this namespace")
            if name in self.hub.repositories:
                return self.answer({"error": "You already created this model repo"}, 409)
            private = asked.get("private") is True or asked.get("visibility") == "private"
            self.hub.repositories[name] = Repository(private)
            self.hub.repositories[name].add({".gitattributes": b""})
            return self.answer({"url": f"{self.hub.url}/{name}"})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/(.+)", path):
            name, verb, revision = match.groups()
            if (repository := self.hub.repositories.get(name)) is None:
                return self.refuse(404, "RepoNotFound", "Repository not found")
            if verb == "branch":
                if revision in repository.branches:
                    return self.answer({"error": "Reference already exists"}, 409)
                repository.branches[revision] = repository.branches["main"]
                return self.answer({})
            if repository.find(revision) is None:
                return self.refuse(404, "RevisionNotFound", "Invalid rev id")
            if verb == "preupload":
                modes = [
                    {"path": each["path"], "uploadMode": "lfs" if is_large(each["path"]) else "regular"}
                    | {"shouldIgnore": False, "oid": None}
                    for each in json.loads(body)["files"]
                ]
                return self.answer({"files": modes})
            return self.commit(name, repository, revision, body)
        if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            objects = [
                {"oid": each["oid"], "size": each["size"]}
                | {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        return self.refuse(404, "", f"no {path}")

    def commit(self, name: str, repository: Repository, revision: str, body: bytes) -> None:
        files: dict[str, bytes] = {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        digest = repository.add(files, revision)
        url = f"{self.hub.url}/{name}/commit/{digest}"
        self.answer({"success": True, "commitOid": digest, "commitUrl": url, "hookOutput": ""})

    def do_PUT(self) -> None:
        data = self.content()
        oid = self.path.rpartition("/")[2]
        self.hub.requests.append(f"PUT {self.path}")
        assert hashlib.sha256(data).hexdigest() == oid
        self.hub.objects[oid] = data
        self.answer({})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append(f"{self.command} {path}")
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = info or file
        if match is None:
            return self.refuse(404, "", f"no {path}")
        repository = self.hub.repositories.get(match[1])
        if repository is None or (repository.private and not self.signed_in()):
            return self.refuse(401 if not self.signed_in() else 404, "RepoNotFound", "Repository not found")
        digest = repository.find(match[2] or "main")
        if digest is None:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        files = repository.commits[digest]
        if info:
            siblings = []
            for name, data in files.items():
                each: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
                if is_large(name):
                    each["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
                siblings.append(each)
            return self.answer({"id": match[1], "modelId": match[1], "sha": digest, "siblings": siblings})
        if match[3] not in files:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        data = files[match[3]]
        tag = (hashlib.sha256 if is_large(match[3]) else hashlib.sha1)(data).hexdigest()
        if match[3] in self.hub.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        return self.answer(data, X_Repo_Commit=digest, ETag=f'"{tag}"', X_Linked_Size=str(len(data)))


@contextmanager
def serve() -> Iterator[Hub]:
    """Run the stand-in on a free port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
