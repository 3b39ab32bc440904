"""The study's page and what it asks for. Answers are acknowledged once they are on the disk; right ones are never sent.

A page says who it is with ``Authorization: Bearer TOKEN``: no cookie, so that two raters can share a browser and no
other site can speak for them. Pictures are fetched the same way, and only those of the rater's own trial are given.
"""

import socket
from collections.abc import Awaitable, Callable, Iterable
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any

from ganaug.errors import UserInputError
from ganaug.study.store import MAX_ID, Conflict, Store

if TYPE_CHECKING:
    from fastapi import FastAPI

LOOPBACK = ("127.0.0.1", "localhost", "::1")

_PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/study.css": ("study.css", "text/css; charset=utf-8"),
    "/study.js": ("study.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
# Nothing is loaded from elsewhere, kept by the browser, or told to other sites; blob: is what pictures are shown from.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_MAX_BODY = 4096  # bytes; an answer has about 150


def build_app(store: Store, hosts: Iterable[str] = LOOPBACK) -> "FastAPI":
    """The application.

    Args:
        store: The study.
        hosts: Names under which it may be asked; others are refused, so that no other site's name can be made to point
            here (DNS rebinding). ``"*"`` for any.

    Raises:
        UserInputError: Without FastAPI or uvicorn.
    """
    try:
        import uvicorn  # noqa: F401  so that both are missed before links are printed
        from fastapi import Body, Depends, FastAPI, Header, HTTPException, Request
        from fastapi.exceptions import RequestValidationError
        from fastapi.responses import JSONResponse, Response
    except ImportError as error:
        raise UserInputError(
            f"`ganaug study serve` needs FastAPI and uvicorn ({error}): pip install 'ganaug[study]'"
        ) from error

    app, known = FastAPI(title="ganaug study", openapi_url=None, docs_url=None, redoc_url=None), frozenset(hosts)

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        length = request.headers.get("content-length", "0")
        if "*" not in known and _name(request.headers.get("host", "")) not in known:
            response: Response = JSONResponse({"detail": "this server does not go by that name"}, 400)
        elif request.method == "POST" and (
            not length.isdigit() or int(length) > _MAX_BODY or _is_chunked(request.headers)
        ):
            response = JSONResponse({"detail": "too long"}, 413)
        else:
            response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    def rater_of(authorization: Annotated[str, Header()] = "") -> int:
        scheme, _, token = authorization.partition(" ")
        rater = store.rater_of(token) if scheme.lower() == "bearer" else None
        if rater is None:
            raise HTTPException(401, "this link is not known")
        return rater

    Rater = Annotated[int, Depends(rater_of)]

    @app.exception_handler(Conflict)
    def conflict(_: Request, error: Conflict) -> Response:
        return JSONResponse({"detail": str(error)}, 409)

    @app.exception_handler(UserInputError)
    def mistake(_: Request, error: UserInputError) -> Response:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(RequestValidationError)
    def malformed(_: Request, __: RequestValidationError) -> Response:
        return JSONResponse({"detail": "not what this page sends"}, 422)  # and nothing of it is sent back

    def page(name: str, media_type: str) -> Callable[[], Response]:
        data = resources.files("ganaug.study").joinpath("static", name).read_bytes()
        return lambda: Response(data, media_type=media_type)

    for path, (name, media_type) in _PAGES.items():
        app.get(path)(page(name, media_type))

    @app.get("/api/state")
    def state(rater: Rater) -> dict[str, Any]:
        return store.state(rater)

    @app.post("/api/consent")
    def consent(rater: Rater) -> dict[str, Any]:
        return store.consent(rater)

    @app.post("/api/answer")
    def answer(
        rater: Rater,
        place: Annotated[int, Body(ge=0)],
        id: Annotated[str, Body(min_length=8, max_length=MAX_ID)],
        choice: Annotated[str, Body(max_length=16)],
        ms: Annotated[int, Body(ge=0)],
    ) -> dict[str, Any]:
        return store.answer(rater, place, id, choice, ms)

    @app.post("/api/withdraw")
    def withdraw(rater: Rater) -> dict[str, Any]:
        return store.withdraw(rater)

    @app.get("/api/picture/{name}")
    def picture(rater: Rater, name: str) -> Response:
        path = store.picture(rater, name)
        if path is None:
            raise HTTPException(404, "no picture of this pair")
        # No Last-Modified and no ETag: all pictures look alike from outside.
        return Response(path.read_bytes(), media_type="image/png")

    return app


def _name(host: str) -> str:
    """Of a ``Host`` header, without the port; an IPv6 address stands in brackets (RFC 3986, section 3.2.2)."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].lower()


def _is_chunked(headers: Any) -> bool:
    return "transfer-encoding" in headers


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: Address of this machine.
        port: 0 takes any that is free.

    Raises:
        UserInputError: If it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # By this protocol number asyncio knows that it is to send small packets at once; else every picture is 40 ms late.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserInputError(f"cannot listen at {host} port {port}: {error}; give another --port") from error
    return listener


def run(app: "FastAPI", listener: socket.socket) -> None:
    """Serves until the process is interrupted. Writes no log of who asked for what.

    Args:
        app: See :func:`build_app`.
        listener: See :func:`listen`.
    """
    import uvicorn

    config = uvicorn.Config(app, access_log=False, log_level="warning", server_header=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])
