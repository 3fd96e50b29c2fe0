"""Protects the page: checks host, origin and password, and sends strict headers."""

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

__all__ = ["Guard", "user_of"]

USER_COOKIE = "loraedit_user"
KEY_COOKIE = "loraedit_key"
YEAR_S = 365 * 24 * 3600
OPEN_PATHS = frozenset({"/login", "/static/app.css"})
LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
MAX_FORM_BYTES = 4096
WRONG_PASSWORD_S = 1.0
"""The delay after a wrong password."""

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


def user_of(cookies: dict[str, str]) -> str | None:
    """Returns the name of the folder of the user with this cookie; None without a cookie. The cookie is not stored."""
    token = cookies.get(USER_COOKIE, "")
    return hashlib.sha256(token.encode()).hexdigest()[:24] if re.fullmatch(r"[\w-]{32}", token, re.ASCII) else None


class Guard:
    """Middleware: checks host, origin and password, gives a new user a cookie, and adds strict headers to answers.

    Args:
        app: the application behind it.
        root: the folder with the secret that survives a restart.
        local: answer to the names of this machine only, so that no other name can point here.
        password: the password of the page; None asks for none.
    """

    def __init__(self, app: ASGIApp, root: Path, local: bool, password: str | None) -> None:
        self._app, self._local, self._password = app, local, password
        self._key = hmac.new(_secret(root / "secret"), (password or "").encode(), "sha256").hexdigest()
        self._login_lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers the request, or passes it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        fresh = None if user_of(request.cookies) else secrets.token_urlsafe(24)

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("cache-control", "no-store")
                if fresh and scope["path"] == "/":
                    headers.append("set-cookie", _cookie(USER_COOKIE, fresh))
            await send(message)

        answer = await self._refusal(request)
        await (answer or self._app)(scope, receive, send_safely)

    async def _refusal(self, request: Request) -> Response | None:
        if self._local and _host_name(request.headers) not in LOCAL_NAMES:
            return PlainTextResponse("This page is served only to its own machine.", 421)
        if not _same_origin(request):
            return PlainTextResponse("Requests from other sites are refused.", 403)
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
                return PlainTextResponse("The form is too large.", 413)
        password = parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0]
        async with self._login_lock:
            if not hmac.compare_digest(password.encode(), (self._password or "").encode()):
                await asyncio.sleep(WRONG_PASSWORD_S)
                return HTMLResponse(LOGIN.format(note="The password is wrong."), 403)
        answer = RedirectResponse("/", 303)
        answer.headers.append("set-cookie", _cookie(KEY_COOKIE, self._key))
        return answer


def _same_origin(request: Request) -> bool:
    """Returns whether the request comes from the page, from a user who opens the page, or from no browser at all."""
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
    """Returns random bytes that survive restarts, in a file that only its owner can read."""
    if not path.exists():
        path.touch(0o600)
        path.write_bytes(secrets.token_bytes(32))
    return path.read_bytes()
