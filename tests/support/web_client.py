"""Starts the web server in its own process, and visits it without a browser."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from scenes import Scene

from loraedit.types import Clip
from loraedit.video import write_clip, write_image

PATIENCE_S = 240.0
QUICK: dict[str, Any] = {"steps": 1, "sampling_steps": 1}


class Server:
    """Runs ``loraedit web`` on a free port."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options = folder, options
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def start(self) -> Server:
        command = [sys.executable, "-m", "loraedit", "web", "--port", str(self.port), "--folder", str(self.folder)]
        self.process = subprocess.Popen([*command, *self.options], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "the server has ended"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.05)
        raise AssertionError("the server does not begin")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(60)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


class Visitor:
    """Sends requests with a cookie jar of its own."""

    def __init__(self, server: Server, password: str | None = None) -> None:
        self.server, self.cookies = server, dict[str, str]()
        if password is not None:
            self.ask("POST", "/login", f"password={password}".encode())
        self.ask("GET", "/")

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Returns status and body; keeps the headers of the last answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE_S)
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection.request(method, path, body or None, {**({"Cookie": cookie} if cookie else {}), **(headers or {})})
        answer = connection.getresponse()
        content, self.headers = answer.read(), answer.headers
        for line in answer.headers.get_all("set-cookie") or []:
            name, _, value = line.split(";")[0].partition("=")
            self.cookies[name] = value
        connection.close()
        return answer.status, content

    def send(self, method: str, path: str, value: Any = None) -> dict[str, Any]:
        """Sends a JSON request that must succeed; returns the answer."""
        status, content = self.ask(method, path, json.dumps(value or {}).encode())
        assert status == 200, content
        answer: dict[str, Any] = json.loads(content)
        return answer

    def refused(self, method: str, path: str, value: Any) -> str:
        """Sends a request that must be refused; returns the error message."""
        status, content = self.ask(method, path, json.dumps(value).encode())
        assert status == 422, (status, content)
        error: str = json.loads(content)["error"]
        return error

    def state(self) -> dict[str, Any]:
        return self.send("GET", "/api/state")

    def upload(self, kind: str, path: Path) -> str:
        status, content = self.ask("POST", f"/upload/{kind}", path.read_bytes())
        assert status == 200, content
        name: str = json.loads(content)["name"]
        return name

    def lay_out(self, files: Path, **settings: Any) -> dict[str, Any]:
        """Uploads clip and edited frame, and waits for the mask."""
        clip, edited = self.upload("clip", files / "source.mkv"), self.upload("image", files / "edited.png")
        draft = {"clip": clip, "whole": clip, "name": "square", "edited": edited, "settings": settings}
        self.send("PUT", "/api/draft", draft)
        return self.wait(lambda state: state["mask"]["state"] in ("done", "failed"))

    def wait(self, met: Any) -> dict[str, Any]:
        """Returns the first state that meets a condition."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            state = self.state()
            if met(state):
                return state
            time.sleep(0.1)
        raise AssertionError(f"waited in vain: {state['runs']}")


def is_finished(state: dict[str, Any]) -> bool:
    """Returns whether the latest run has ended."""
    return state["runs"][0]["state"] in ("done", "failed", "stopped")


def write_inputs(folder: Path, scene: Scene) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_clip(folder / "source.mkv", Clip(scene.source, Fraction(5)))
    write_image(folder / "edited.png", scene.edited_first)
    return folder


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
