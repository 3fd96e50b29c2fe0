"""What stands before the page: who may ask, from where, and what a browser may do with the answer."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard", "person_of"]

PERSON_COOKIE = "loraedit_person"
KEY_COOKIE = "loraedit_key"
YEAR_S = 365 * 24 * 3600
OPEN_PATHS = frozenset({"/login", "/static/app.css"})
LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
MAX_FORM_BYTES = 4096
WRONG_PASSWORD_S = 1.0
"""Every wrong password holds up the next try by so long."""

HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
LOGIN = """<!doctype html><html lang="en"><meta charset="utf-8"><title>loraedit</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="/static/app.css">
<main class="login"><h1>loraedit</h1><form method="post" action="/login"><label for="password">Password</label>
<input id="password" name="password" type="password" required autofocus autocomplete="current-password">
<p role="alert">{note}</p><button class="primary">Open</button></form></main></html>"""


def person_of(cookies: dict[str, str]) -> str | None:
    """The name of the folder of whoever shows this cookie, which itself is stored nowhere; None without one."""
    token = cookies.get(PERSON_COOKIE, "")
    return hashlib.sha256(token.encode()).hexdigest()[:24] if re.fullmatch(r"[\w-]{32}", token, re.ASCII) else None


class Guard:
    """Middleware: host, origin and password are checked, a new person gets a cookie, answers get strict headers.

    Args:
        app: what is guarded.
        root: where the secret lies that outlives a restart.
        local: serve this machine's own names alone, so that no foreign name can be pointed here.
        password: None asks for none.
    """

    def __init__(self, app: ASGIApp, root: Path, local: bool, password: str | None) -> None:
        self._app, self._local, self._password = app, local, password
        self._key = hmac.new(_secret(root / "secret"), (password or "").encode(), "sha256").hexdigest()
        self._slowly = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        fresh = None if person_of(request.cookies) else secrets.token_urlsafe(24)

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("cache-control", "no-store")
                if fresh and scope["path"] == "/":
                    headers.append("set-cookie", _cookie(PERSON_COOKIE, fresh))
            await send(message)

        answer = await self._refusal(request)
        await (answer or self._app)(scope, receive, send_safely)

    async def _refusal(self, request: Request) -> Response | None:
        if self._local and _host_name(request.headers) not in LOCAL_NAMES:
            return PlainTextResponse("This page is served to its own machine alone.", 421)
        if not _same_origin(request):
            return PlainTextResponse("Another site may not ask for this.", 403)
        if self._password is None:
            return None
        if request.url.path == "/login":
            return await self._login(request)
        if request.url.path in OPEN_PATHS or hmac.compare_digest(_ascii(request.cookies.get(KEY_COOKIE)), self._key):
            return None
        if request.url.path == "/":
            return RedirectResponse("/login", 303)
        return PlainTextResponse("The password is missing.", 401)

    async def _login(self, request: Request) -> Response:
        if request.method != "POST":
            return HTMLResponse(LOGIN.format(note=""))
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_FORM_BYTES:
                return PlainTextResponse("That is no password.", 413)
        given = parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0]
        async with self._slowly:
            if not hmac.compare_digest(given.encode(), (self._password or "").encode()):
                await asyncio.sleep(WRONG_PASSWORD_S)
                return HTMLResponse(LOGIN.format(note="That is not the password."), 403)
        answer = RedirectResponse("/", 303)
        answer.headers.append("set-cookie", _cookie(KEY_COOKIE, self._key))
        return answer


def _same_origin(request: Request) -> bool:
    """A page of ours asks, or somebody opens the page itself, or it is no browser at all."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "none")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return False
    opened = request.method == "GET" and request.url.path in ("/", "/login")
    return opened or site in ("same-origin", "none")


def _host_name(headers: Headers) -> str:
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _cookie(name: str, value: str) -> str:
    return f"{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={YEAR_S}"


def _ascii(text: str | None) -> str:
    return (text or "").encode("ascii", "replace").decode()


def _secret(path: Path) -> bytes:
    """Random bytes that stay the same over restarts, readable by the owner alone."""
    if not path.exists():
        path.touch(0o600)
        path.write_bytes(secrets.token_bytes(32))
    return path.read_bytes()
