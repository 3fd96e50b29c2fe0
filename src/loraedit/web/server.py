"""The server: routes to the desk, uploads, pictures and downloads."""

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
from loraedit.web.guard import Guard, person_of
from loraedit.web.jobs import Lock
from loraedit.web.options import WebOptions
from loraedit.web.session import Desk, Office

__all__ = ["make_app", "run_server"]

PAGE = Path(__file__).parent / "page"
STATIC = {path.name: path for path in PAGE.iterdir() if path.suffix in (".css", ".js", ".svg")}
MAX_JSON_BYTES = 1 << 20
SPARE_BYTES = 1 << 30
"""No upload is taken that would leave less room on the disk."""
FOREVER = {"cache-control": "private, max-age=31536000, immutable"}

Handler = Callable[[Request, Desk], Awaitable[Response]]


def run_server(options: WebOptions) -> None:
    """Serve until interrupted.

    Raises:
        InputError: another server uses the folder.
    """
    root = options.folder.absolute()
    root.mkdir(parents=True, exist_ok=True)
    lock = Lock.take(root / "lock")
    if lock is None:
        raise InputError(f"Another server uses '{options.folder}'. Stop it, or give another --folder.")
    where = "every address of this machine" if options.share_on_lan else f"http://127.0.0.1:{options.port}"
    sys.stderr.write(f"Open http://127.0.0.1:{options.port} in a browser (served on {where}); Ctrl+C ends it.\n")
    sys.stderr.flush()
    uvicorn.run(
        make_app(options), host=options.host, port=options.port, log_level="warning", server_header=False,
        timeout_graceful_shutdown=2, proxy_headers=False,
    )  # fmt: skip
    lock.let_go()


def make_app(options: WebOptions) -> Guard:
    """The application, whose lanes run as long as it does."""
    root = options.folder.absolute()
    office = Office(root, list(options.models))

    @asynccontextmanager
    async def open_hours(_app: Starlette) -> AsyncIterator[None]:
        office.open()
        yield
        await run_in_threadpool(office.close)

    def at(path: str, handler: Handler, method: str = "GET") -> Route:
        async def answer(request: Request) -> Response:
            person = person_of(request.cookies)
            if person is None:
                return JSONResponse({"error": "Open the page first, with cookies allowed."}, 403)
            try:
                return await handler(request, await run_in_threadpool(office.desk, person))
            except LoraEditError as error:
                return JSONResponse({"error": " ".join(str(error).split())}, 422)

        return Route(path, answer, methods=[method])

    async def upload(request: Request, desk: Desk) -> Response:
        return await _upload(request, desk, options.max_upload_mb << 20)

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
    return Guard(Starlette(routes=routes, lifespan=open_hours), root, not options.share_on_lan, options.password)


# ---- the page --------------------------------------------------------------------------------------------------------


async def _page(_request: Request) -> Response:
    return FileResponse(PAGE / "index.html", media_type="text/html; charset=utf-8")


async def _static(request: Request) -> Response:
    path = STATIC.get(request.path_params["name"])
    return FileResponse(path) if path else Response(status_code=404)


# ---- the desk --------------------------------------------------------------------------------------------------------


async def _state(_request: Request, desk: Desk) -> Response:
    return JSONResponse(await run_in_threadpool(desk.state))


async def _draft(request: Request, desk: Desk) -> Response:
    await run_in_threadpool(desk.set_draft, await _json(request))
    return JSONResponse(await run_in_threadpool(desk.state))


async def _example(_request: Request, desk: Desk) -> Response:
    await run_in_threadpool(desk.take_example)
    return JSONResponse(await run_in_threadpool(desk.state))


async def _trim(request: Request, desk: Desk) -> Response:
    wanted = await _json(request)
    first, end = wanted.get("first"), wanted.get("end")
    if not isinstance(first, int) or not isinstance(end, int):
        raise InputError("A part of a clip is given by its first frame and the one after its last.")
    await run_in_threadpool(desk.trim, first, end)
    return JSONResponse(await run_in_threadpool(desk.state))


async def _retry_mask(_request: Request, desk: Desk) -> Response:
    await run_in_threadpool(desk.retry_mask)
    return JSONResponse(await run_in_threadpool(desk.state))


async def _plan(_request: Request, desk: Desk) -> Response:
    await run_in_threadpool(desk.plan)
    return JSONResponse(await run_in_threadpool(desk.state))


async def _start(_request: Request, desk: Desk) -> Response:
    run = await run_in_threadpool(desk.start)
    return JSONResponse({"run": run, **await run_in_threadpool(desk.state)})


async def _act(request: Request, desk: Desk) -> Response:
    await run_in_threadpool(desk.act, request.path_params["run"], request.path_params["action"])
    return JSONResponse(await run_in_threadpool(desk.state))


async def _json(request: Request) -> dict[str, Any]:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_JSON_BYTES:
            raise InputError("That is too much at once.")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError("That is no JSON.") from error
    if not isinstance(value, dict):
        raise InputError("Expected a JSON object.")
    return value


async def _upload(request: Request, desk: Desk, most: int) -> Response:
    """The body is the file; it is named by its content."""
    kind = request.path_params["kind"]
    keep = {"clip": desk.store.keep_clip, "image": desk.store.keep_image}.get(kind)
    if keep is None:
        raise InputError("Only clips and images are taken.")
    passing = desk.store.folder / "incoming" / secrets.token_hex(8)
    digest, size = hashlib.sha256(), 0
    room = shutil.disk_usage(desk.store.folder).free - SPARE_BYTES
    try:
        with passing.open("wb") as file:
            async for piece in request.stream():
                size += len(piece)
                if size > most:
                    raise InputError(f"The file is too large; at most {most >> 20} MiB are taken.")
                if size > room:
                    raise InputError("There is too little room on the server's disk.")
                digest.update(piece)
                file.write(piece)
        name = await run_in_threadpool(keep, passing, digest.hexdigest())
    finally:
        passing.unlink(missing_ok=True)
    return JSONResponse({"name": name})


# ---- pictures and downloads ------------------------------------------------------------------------------------------


async def _picture(request: Request, desk: Desk) -> Response:
    """A frame of a clip, a mask or a result; all are named by content, or never change once they are there."""
    kind, name, index = (request.path_params[key] for key in ("kind", "name", "index"))
    made = await run_in_threadpool(desk.picture, kind, name, index)
    if isinstance(made, Path):
        return FileResponse(made, headers=FOREVER)
    return Response(made, media_type="image/png", headers=FOREVER)


async def _clip(request: Request, desk: Desk) -> Response:
    path = desk.store.clip(request.path_params["name"])
    return FileResponse(path, filename=path.name, headers=FOREVER)


async def _image(request: Request, desk: Desk) -> Response:
    return FileResponse(desk.store.image(request.path_params["name"]), headers=FOREVER)


async def _product(request: Request, desk: Desk) -> Response:
    path = await run_in_threadpool(desk.product, request.path_params["run"], request.path_params["name"])
    shown = "attachment" if "download" in request.query_params or path.suffix == ".html" else "inline"
    return FileResponse(path, filename=path.name, content_disposition_type=shown)
