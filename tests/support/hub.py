"""A Hugging Face hub on loopback: the part of its HTTP API that huggingface_hub 2.4, datasets and fsspec call.

Repositories live in memory, each commit with all its files, as in git. Large files (by name or size) are LFS objects,
whose answers redirect to another address; others redirect to a cached one, as the hub does today.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

PAGE_ENTRIES = 1000
LFS_NAMES = re.compile(r".*\.(safetensors|parquet|arrow|gz|zst|bin|zip|gguf)")
LFS_BYTES = 10 << 20
OWNER_TOKEN, STRANGER_TOKEN = "hf_owner", "hf_stranger"


@dataclass
class Repository:
    """One repository: branches and tags by name, and the files of each commit."""

    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    is_gated: bool = False
    is_private: bool = False

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Makes a commit with these files, and the branch point at it; gives its id."""
        digest = hashlib.sha1(f"{len(self.commits)}".encode())
        for name, content in sorted(files.items()):
            digest.update(f"{name}\0{_sha256(content)}".encode())
        self.commits[digest.hexdigest()] = dict(files)
        self.branches[branch] = digest.hexdigest()
        return digest.hexdigest()

    def files(self, revision: str) -> tuple[str, dict[str, bytes]]:
        """The commit that a revision names and its files. Raises KeyError if there is none."""
        commit = self.branches.get(revision, revision)
        return commit, self.commits[commit]


class LoopbackHub:
    """The hub's state, and what tests ask of it."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        """LFS objects that were uploaded, by SHA-256."""
        self.requests: list[str] = []
        """Method and path of every request."""
        self.fault: Callable[[str], int | None] = lambda _: None
        """Status to answer a request (`GET /path`) with, or None; -1 cuts the connection in the middle of the body."""
        self.url = ""
        self.storage_url = ""
        """Another host name for the same server: the hub's client follows redirects on the hub's own host only."""

    def add(self, name: str, files: Mapping[str, bytes | str], kind: str = "dataset", **how: bool) -> Repository:
        """Adds a repository with one commit on `main`."""
        made = self.repositories[kind, name] = Repository(**how)
        made.commit({path: text.encode() if isinstance(text, str) else text for path, text in files.items()})
        return made

    def add_folder(self, name: str, folder: Path, kind: str = "model") -> Repository:
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return self.add(name, {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}, kind)


@contextmanager
def loopback_hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[LoopbackHub]:
    """A running hub that this process and those it starts use; caches lie in `folder`."""
    import datasets.config
    from huggingface_hub import HfFileSystem, constants

    hub = LoopbackHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    hub.storage_url = f"http://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(folder))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(folder / "hub"),
        "HF_TOKEN_PATH": str(folder / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,  # uploads go by LFS, which is the protocol of this hub
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HUB_DATASETS_URL", hub.url + "/datasets/{repo_id}/resolve/{revision}/{path}")
    HfFileSystem.clear_instance_cache()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        HfFileSystem.clear_instance_cache()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _is_lfs(path: str, size_bytes: int) -> bool:
    return bool(LFS_NAMES.fullmatch(path)) or size_bytes > LFS_BYTES


class _RefusedError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 (the names that http.server calls)

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        named = f"{self.command} {unquote(parts.path)}"
        self.hub.requests.append(named)
        self.is_cut = False
        try:
            status = self.hub.fault(named)
            self.is_cut = status == -1
            if status is not None and not self.is_cut:
                raise _RefusedError(status, "", "the test wants this")
            for methods, pattern, answer in _ROUTES:
                found = re.fullmatch(pattern, parts.path)
                if found and self.command in methods:
                    return answer(self, *(unquote(part or "") for part in found.groups()))
            raise _RefusedError(404, "", f"this hub has no {named}")
        except _RefusedError as refused:
            self._send(refused.status, b"{}", refused.headers)

    # -- answers -------------------------------------------------------------------------------------------------------

    def _send(self, status: int, content: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.is_cut and len(content) > 1:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(content)

    def _json(self, value: Any, headers: Mapping[str, str] | None = None) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"} | dict(headers or {}))

    def _content(self, content: bytes, headers: Mapping[str, str]) -> None:
        """The content, or the part of it that the request's Range names."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        headers = {"Accept-Ranges": "bytes"} | dict(headers)
        if not asked:
            self._send(200, content, headers)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if first >= len(content):
            self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        else:
            about = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
            self._send(206, content[first : last + 1], headers | about)

    # -- who asks for what ---------------------------------------------------------------------------------------------

    def _token(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        if token not in (None, OWNER_TOKEN, STRANGER_TOKEN):
            raise _RefusedError(401, "", "Invalid credentials in Authorization header")
        return token

    def _repository(self, kind: str, name: str, *, reads_files: bool = False) -> Repository:
        token = self._token()
        made = self.hub.repositories.get((kind, name))
        if made is None or (made.is_private and token != OWNER_TOKEN):
            raise _RefusedError(401 if token is None else 404, "RepoNotFound", "Repository not found")
        if reads_files and made.is_gated and token != OWNER_TOKEN:
            raise _RefusedError(401 if token is None else 403, "GatedRepo", f"Access to {kind} {name} is restricted")
        return made

    def _files(self, kind: str, name: str, revision: str, *, reads_files: bool = False) -> tuple[str, dict[str, bytes]]:
        try:
            return self._repository(kind, name, reads_files=reads_files).files(revision or "main")
        except KeyError:
            raise _RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}") from None

    # -- reading -------------------------------------------------------------------------------------------------------

    def who(self) -> None:
        if self._token() is None:
            raise _RefusedError(401, "", "Invalid username or password.")
        self._json({"type": "user", "name": "owner", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def info(self, kind: str, name: str, revision: str) -> None:
        made = self._repository(kind, name)
        commit, files = self._files(kind, name, revision)
        known = {"id": name, "sha": commit, "private": made.is_private, "tags": [], "downloads": 0, "likes": 0}
        siblings = [{"rfilename": path} for path in files]
        self._json(known | {"gated": "auto" if made.is_gated else False, "siblings": siblings})

    def auth_check(self, kind: str, name: str) -> None:
        self._repository(kind, name, reads_files=True)
        self._json({})

    def refs(self, kind: str, name: str) -> None:
        made = self._repository(kind, name)
        heads = [
            {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": commit}
            for branch, commit in made.branches.items()
        ]
        self._json({"branches": heads, "tags": [], "converts": []})

    def tree(self, kind: str, name: str, revision: str, below: str) -> None:
        _, files = self._files(kind, name, revision, reads_files=True)
        entries = _entries(files, below.strip("/"), self.query.get("recursive", "").lower() == "true")
        if below.strip("/") and not entries:
            raise _RefusedError(404, "EntryNotFound", f"{below} does not exist")
        first = int(self.query.get("cursor", 0))
        further = first + PAGE_ENTRIES
        address = f"{self.hub.url}{self.path.partition('?')[0]}"
        query = "&".join(f"{key}={quote(value)}" for key, value in (self.query | {"cursor": str(further)}).items())
        links = {"Link": f'<{address}?{query}>; rel="next"'} if further < len(entries) else {}
        self._json(entries[first:further], links)

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        _, files = self._files(kind, name, revision, reads_files=True)
        asked = json.loads(self.body)["paths"]
        every = _entries(files, "", True)
        self._json([entry for entry in every if entry["path"] in asked])

    def resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        kind = "dataset" if kind else "model"
        commit, files = self._files(kind, name, revision, reads_files=True)
        about = {"X-Repo-Commit": commit}
        if path not in files:
            self._send(404, b"Entry not found", about | {"X-Error-Code": "EntryNotFound"})
            return
        content = files[path]
        if _is_lfs(path, len(content)):
            digest = _sha256(content)
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            self.hub.objects.setdefault(digest, content)
            self._send(302, b"", about | linked | {"Location": f"{self.hub.storage_url}/lfs/{digest}"})
        else:
            to = f"/api/resolve-cache/{kind}s/{name}/{commit}/{quote(path)}"
            self._send(307, b"", about | {"Location": to, "X-Linked-Size": str(len(content))})

    def cached(self, kind: str, name: str, commit: str, path: str) -> None:
        _, files = self._files(kind, name, commit, reads_files=True)
        self._content(files[path], {"X-Repo-Commit": commit, "ETag": f'"{_blob_id(files[path])}"'})

    def lfs(self, digest: str) -> None:
        if digest not in self.hub.objects:
            raise _RefusedError(404, "", "no such object")
        self._content(self.hub.objects[digest], {"ETag": f'"{digest}"'})

    # -- writing -------------------------------------------------------------------------------------------------------

    def _writer(self, kind: str, name: str) -> Repository:
        made = self._repository(kind, name)
        if self._token() != OWNER_TOKEN:
            raise _RefusedError(
                403 if self._token() else 401, "", "You don't have the rights to write to this repository"
            )
        return made

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'owner'}/{asked['name']}"
        if self._token() != OWNER_TOKEN:
            raise _RefusedError(403 if self._token() else 401, "", f"You don't have the rights to create {name}")
        key = (asked.get("type", "model"), name)
        address = f"{self.hub.url}/{'datasets/' if key[0] == 'dataset' else ''}{name}"
        if key in self.hub.repositories:
            self._send(409, json.dumps({"error": "You already created this repo", "url": address}).encode())
            return
        made = self.hub.repositories[key] = Repository(is_private=asked.get("visibility") == "private")
        made.commit({".gitattributes": b""})
        self._json({"url": address, "name": name, "id": name})

    def branch(self, kind: str, name: str, branch: str) -> None:
        made = self._writer(kind, name)
        if branch in made.branches:
            self._send(409, b"{}")
            return
        made.branches[branch] = made.branches["main"]
        self._json({})

    def validate(self) -> None:
        self._json({"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        self._writer(kind, name)
        _, files = self._files(kind, name, revision)
        modes = []
        for file in json.loads(self.body)["files"]:
            is_lfs, held = _is_lfs(file["path"], file["size"]), files.get(file["path"])
            oid = None if held is None else _sha256(held) if is_lfs else _blob_id(held)
            mode = {"uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False, "oid": oid}
            modes.append({"path": file["path"]} | mode)
        self._json({"files": modes})

    def lfs_batch(self, kind: str, name: str) -> None:
        self._writer("dataset" if kind else "model", name)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.hub.url}/lfs-upload/{asked['oid']}", "header": {}}
            verify = {"href": f"{self.hub.url}/lfs-verify", "header": {}}
            is_held = asked["oid"] in self.hub.objects
            objects.append(asked if is_held else asked | {"actions": {"upload": upload, "verify": verify}})
        self._json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, digest: str) -> None:
        if _sha256(self.body) != digest:
            raise _RefusedError(400, "", "the content has another SHA-256")
        self.hub.objects[digest] = self.body
        self._send(200)

    def lfs_verify(self) -> None:
        asked = json.loads(self.body)
        held = self.hub.objects.get(asked["oid"])
        if held is None or len(held) != asked["size"]:
            raise _RefusedError(404, "", "the object was not uploaded")
        self._json({})

    def commit(self, kind: str, name: str, revision: str) -> None:
        made = self._writer(kind, name)
        _, files = self._files(kind, name, revision)
        files = dict(files)
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        oid = made.commit(files, revision)
        self._json({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})


def _entries(files: Mapping[str, bytes], below: str, is_recursive: bool) -> list[dict[str, Any]]:
    """The files and folders below a folder, as the tree lists them."""
    folders: dict[str, dict[str, Any]] = {}
    found = []
    for path, content in sorted(files.items()):
        if below and not path.startswith(f"{below}/"):
            continue
        inside = path.removeprefix(f"{below}/" if below else "")
        parts = inside.split("/")[:-1]
        for depth in range(1, (len(parts) if is_recursive else min(len(parts), 1)) + 1):
            folder = "/".join([*([below] if below else []), *parts[:depth]])
            oid = hashlib.sha1(folder.encode()).hexdigest()
            folders[folder] = {"type": "directory", "oid": oid, "size": 0, "path": folder}
        if is_recursive or not parts:
            found.append(_file_entry(path, content))
    return [*folders.values(), *found]


def _file_entry(path: str, content: bytes) -> dict[str, Any]:
    entry = {"type": "file", "oid": _blob_id(content), "size": len(content), "path": path}
    if _is_lfs(path, len(content)):
        return entry | {"lfs": {"oid": _sha256(content), "size": len(content), "pointerSize": 134}}
    return entry


_KIND, _NAME, _READ = r"/api/(model|dataset)s", r"/([^/]+/[^/]+)", ("GET", "HEAD")
_ROUTES: tuple[tuple[tuple[str, ...], str, Callable[..., None]], ...] = (
    (_READ, r"/api/whoami-v2", _Handler.who),
    (_READ, rf"{_KIND}{_NAME}/auth-check", _Handler.auth_check),
    (_READ, rf"{_KIND}{_NAME}/refs", _Handler.refs),
    (_READ, rf"{_KIND}{_NAME}/tree/([^/]+)(/.*)?", _Handler.tree),
    (_READ, rf"{_KIND}{_NAME}(?:/revision/([^/]+))?", _Handler.info),
    (_READ, rf"/api/resolve-cache/(model|dataset)s{_NAME}/([^/]+)/(.+)", _Handler.cached),
    (_READ, rf"(/datasets)?{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
    (_READ, r"/lfs/(\w+)", _Handler.lfs),
    (("POST",), rf"{_KIND}{_NAME}/paths-info/([^/]+)", _Handler.paths_info),
    (("POST",), r"/api/repos/create", _Handler.create),
    (("POST",), rf"{_KIND}{_NAME}/branch/([^/]+)", _Handler.branch),
    (("POST",), r"/api/validate-yaml", _Handler.validate),
    (("POST",), rf"{_KIND}{_NAME}/preupload/([^/]+)", _Handler.preupload),
    (("POST",), rf"(/datasets)?{_NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (("PUT",), r"/lfs-upload/(\w+)", _Handler.lfs_upload),
    (("POST",), r"/lfs-verify", _Handler.lfs_verify),
    (("POST",), rf"{_KIND}{_NAME}/commit/([^/]+)", _Handler.commit),
)
