"""The page at `/`: files as they are, and what a browser lets them do."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FOLDER = Path(__file__).parent / "static"
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_HEADERS = {
    # Nothing from elsewhere, nothing written into the page, nothing sent elsewhere, and in nobody's frame.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # A new release counts at once.
    "Cache-Control": "no-cache",
}


def page_routes() -> list[Route]:
    """Return the routes of the page."""
    return [_route(path, _FOLDER / name, media_type) for path, (name, media_type) in _FILES.items()]


def _route(path: str, file: Path, media_type: str) -> Route:
    content = file.read_bytes()

    async def show(_request: Request) -> Response:
        return Response(content, headers=_HEADERS, media_type=media_type)

    return Route(path, show)
