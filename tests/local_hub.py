"""A Hugging Face hub on this machine: as much of its HTTP interface as an upload in one commit and a download need."""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import huggingface_hub
import pytest
import yaml

#: The only token that it knows.
TOKEN = "hf_me"


class LocalHub(ThreadingHTTPServer):
    """Repositories: name -> files by name, visibility, and newest commit."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.commits: dict[str, int] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, repo: str, private: bool = False, **files: bytes) -> None:
        self.files[repo] = {".gitattributes": b"", **{name.replace("_", "."): data for name, data in files.items()}}
        self.private[repo], self.commits[repo] = private, 1

    def commit_id(self, repo: str) -> str:
        return f"{self.commits[repo]:040x}"


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    server: LocalHub

    def log_message(self, *_):
        pass

    def answer(self, status: int, content=None, body: bytes = b"", **headers: str) -> None:
        body = json.dumps(content).encode() if content is not None else body
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, message: str, code: str = "") -> None:
        self.answer(status, {"error": message}, X_Error_Message=message, **({"X_Error_Code": code} if code else {}))

    def do_GET(self):
        parts = urlsplit(self.path).path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if api else parts[:2])
        files = self.server.files.get(repo)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "Invalid credentials in Authorization header")
        elif files is None:
            self.refuse(404, "Repository not found", "RepoNotFound")
        elif api:
            shown = [{"rfilename": name} for name in files]
            sha, private = self.server.commit_id(repo), self.server.private[repo]
            self.answer(200, {"id": repo, "modelId": repo, "sha": sha, "private": private, "siblings": shown})
        elif parts[-1] not in files:
            self.refuse(404, "Entry not found", "EntryNotFound")
        else:
            commit = self.server.commit_id(repo)
            self.answer(200, body=files[parts[-1]], ETag=f'"{commit}-{parts[-1]}"', X_Repo_Commit=commit)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self):
        path, body = urlsplit(self.path).path, self.rfile.read(int(self.headers["Content-Length"]))
        repo = "/".join(path.split("/")[3:5])
        if path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":
            front = yaml.safe_load(json.loads(body)["content"].split("---")[1])
            wrong = [] if front.get("license") in (None, "mit") else [{"message": '"license" must be one of [mit]'}]
            self.answer(400 if wrong else 200, {"errors": wrong, "warnings": []})
        elif "/preupload/" in path:
            kept = [
                {"uploadMode": "regular", "shouldIgnore": False, "path": f["path"]} for f in json.loads(body)["files"]
            ]
            self.answer(200, {"files": kept})
        else:
            self.commit(repo, [json.loads(line) for line in body.splitlines()])

    def create(self, asked: dict) -> None:
        if asked["organization"] != "me":
            self.refuse(403, "You don't have the rights to create a model under this namespace")
            return
        name = f"me/{asked['name']}"
        self.server.add(name, asked.get("visibility") == "private" or bool(asked.get("private")))
        self.answer(200, {"url": f"{self.server.address}/{name}"})

    def commit(self, repo: str, lines: list[dict]) -> None:
        if lines[0]["value"].get("parentCommit", self.server.commit_id(repo)) != self.server.commit_id(repo):
            self.refuse(412, "A commit has happened since")
            return
        self.server.commits[repo] += 1
        added = [line["value"] for line in lines if line["key"] == "file"]
        self.server.files[repo] |= {file["path"]: base64.b64decode(file["content"]) for file in added}
        commit = self.server.commit_id(repo)
        self.answer(200, {"commitUrl": f"{self.server.address}/{repo}/commit/{commit}", "commitOid": commit})


@contextmanager
def serve(cache):
    """Run a hub that huggingface_hub takes for the real one, with a cache of its own and a token."""
    hub, constants = LocalHub(), huggingface_hub.constants
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "ENDPOINT", hub.address)
        patch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        yield hub
    hub.shutdown()
    hub.server_close()
    thread.join()
