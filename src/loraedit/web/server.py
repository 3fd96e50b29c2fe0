"""The server: routes to the session, uploads, pictures and downloads."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from loraedit.errors import InputError, LoraEditError
from loraedit.web.app import App
from loraedit.web.guard import Guard, user_of
from loraedit.web.jobs import Lock
from loraedit.web.options import WebOptions
from loraedit.web.pictures import picture, product
from loraedit.web.session import Session
from loraedit.web.session_state import session_state

__all__ = ["make_app", "run_server"]

PAGE = Path(__file__).parent / "page"
STATIC = {path.name: path for path in PAGE.iterdir() if path.suffix in (".css", ".js", ".svg")}
MAX_JSON_BYTES = 1 << 20
SPARE_BYTES = 1 << 30
"""Uploads that would leave less free disk space are refused."""
CACHED = {"cache-control": "private, max-age=31536000, immutable"}

Handler = Callable[[Request, Session], Awaitable[Response]]


def run_server(options: WebOptions) -> None:
    """Serves until interrupted.

    Raises:
        InputError: another server uses the folder.
    """
    root = options.folder.absolute()
    root.mkdir(parents=True, exist_ok=True)
    lock = Lock.take(root / "lock")
    if lock is None:
        raise InputError(f"Another server uses '{options.folder}'. Stop it, or give another --folder.")
    where = "Other machines can open it too." if options.share_on_lan else "Only this machine can open it."
    sys.stderr.write(f"Open http://127.0.0.1:{options.port} in a browser. {where} Ctrl+C stops the server.\n")
    sys.stderr.flush()
    uvicorn.run(
        make_app(options), host=options.host, port=options.port, log_level="warning", server_header=False,
        timeout_graceful_shutdown=2, proxy_headers=False,
    )  # fmt: skip
    lock.release()


def make_app(options: WebOptions) -> Guard:
    """Returns the web application; its queues run as long as it does."""
    root = options.folder.absolute()
    app = App(root, list(options.models))

    @asynccontextmanager
    async def lifespan(_starlette: Starlette) -> AsyncIterator[None]:
        app.start()
        yield
        await run_in_threadpool(app.close)

    def at(path: str, handler: Handler, method: str = "GET") -> Route:
        async def answer(request: Request) -> Response:
            user = user_of(request.cookies)
            if user is None:
                return JSONResponse({"error": "Allow cookies and open the page first."}, 403)
            try:
                return await handler(request, await run_in_threadpool(app.session, user))
            except LoraEditError as error:
                return JSONResponse({"error": " ".join(str(error).split())}, 422)

        return Route(path, answer, methods=[method])

    async def upload(request: Request, session: Session) -> Response:
        return await _upload(request, session, options.max_upload_mb << 20)

    routes = [
        Route("/", _page),
        Route("/static/{name}", _static),
        at("/api/state", _state),
        at("/api/draft", _draft, "PUT"),
        at("/api/example", _example, "POST"),
        at("/api/trim", _trim, "POST"),
        at("/api/retry-mask", _retry_mask, "POST"),
        at("/api/plan", _plan, "POST"),
        at("/api/runs", _start, "POST"),
        at("/api/runs/{run}/{action}", _act, "POST"),
        at("/upload/{kind}", upload, "POST"),
        at("/media/{kind}/{name}/{index:int}", _picture),
        at("/media/clip/{name}", _clip),
        at("/media/image/{name}", _image),
        at("/media/run/{run}/{name}", _product),
    ]
    return Guard(Starlette(routes=routes, lifespan=lifespan), root, not options.share_on_lan, options.password)


# ---- the page --------------------------------------------------------------------------------------------------------


async def _page(_request: Request) -> Response:
    return FileResponse(PAGE / "index.html", media_type="text/html; charset=utf-8")


async def _static(request: Request) -> Response:
    path = STATIC.get(request.path_params["name"])
    return FileResponse(path) if path else Response(status_code=404)


# ---- the session -----------------------------------------------------------------------------------------------------


async def _state(_request: Request, session: Session) -> Response:
    return JSONResponse(await run_in_threadpool(session_state, session))


async def _draft(request: Request, session: Session) -> Response:
    await run_in_threadpool(session.set_draft, await _json(request))
    return JSONResponse(await run_in_threadpool(session_state, session))


async def _example(_request: Request, session: Session) -> Response:
    await run_in_threadpool(session.take_example)
    return JSONResponse(await run_in_threadpool(session_state, session))


async def _trim(request: Request, session: Session) -> Response:
    wanted = await _json(request)
    first, end = wanted.get("first"), wanted.get("end")
    if not isinstance(first, int) or not isinstance(end, int):
        raise InputError("Trimming needs two whole numbers: the first frame and the frame after the last.")
    await run_in_threadpool(session.trim, first, end)
    return JSONResponse(await run_in_threadpool(session_state, session))


async def _retry_mask(_request: Request, session: Session) -> Response:
    await run_in_threadpool(session.retry_mask)
    return JSONResponse(await run_in_threadpool(session_state, session))


async def _plan(_request: Request, session: Session) -> Response:
    await run_in_threadpool(session.plan)
    return JSONResponse(await run_in_threadpool(session_state, session))


async def _start(_request: Request, session: Session) -> Response:
    run = await run_in_threadpool(session.start)
    return JSONResponse({"run": run, **await run_in_threadpool(session_state, session)})


async def _act(request: Request, session: Session) -> Response:
    await run_in_threadpool(session.act, request.path_params["run"], request.path_params["action"])
    return JSONResponse(await run_in_threadpool(session_state, session))


async def _json(request: Request) -> dict[str, Any]:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_JSON_BYTES:
            raise InputError("The request is too large.")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError("The request is not JSON.") from error
    if not isinstance(value, dict):
        raise InputError("Expected a JSON object.")
    return value


async def _upload(request: Request, session: Session, most: int) -> Response:
    """Takes an upload: the body is the file, and its content decides its name."""
    kind = request.path_params["kind"]
    keep = {"clip": session.files.keep_clip, "image": session.files.keep_image}.get(kind)
    if keep is None:
        raise InputError("Uploads are clips or images.")
    temporary = session.files.folder / "incoming" / secrets.token_hex(8)
    digest, size = hashlib.sha256(), 0
    room = shutil.disk_usage(session.files.folder).free - SPARE_BYTES
    try:
        with temporary.open("wb") as file:
            async for piece in request.stream():
                size += len(piece)
                if size > most:
                    raise InputError(f"The file is too large. At most {most >> 20} MiB are accepted.")
                if size > room:
                    raise InputError("The disk of the server is full. Free some space.")
                digest.update(piece)
                file.write(piece)
        name = await run_in_threadpool(keep, temporary, digest.hexdigest())
    finally:
        temporary.unlink(missing_ok=True)
    return JSONResponse({"name": name})


# ---- pictures and downloads ------------------------------------------------------------------------------------------


async def _picture(request: Request, session: Session) -> Response:
    """Sends a frame of a clip, a mask or a result; none of them ever changes."""
    kind, name, index = (request.path_params[key] for key in ("kind", "name", "index"))
    found = await run_in_threadpool(picture, session.files, kind, name, index)
    if isinstance(found, Path):
        return FileResponse(found, headers=CACHED)
    return Response(found, media_type="image/png", headers=CACHED)


async def _clip(request: Request, session: Session) -> Response:
    path = session.files.clip(request.path_params["name"])
    return FileResponse(path, filename=path.name, headers=CACHED)


async def _image(request: Request, session: Session) -> Response:
    return FileResponse(session.files.image(request.path_params["name"]), headers=CACHED)


async def _product(request: Request, session: Session) -> Response:
    path = await run_in_threadpool(product, session.files, request.path_params["run"], request.path_params["name"])
    shown = "attachment" if "download" in request.query_params or path.suffix == ".html" else "inline"
    return FileResponse(path, filename=path.name, content_disposition_type=shown)
