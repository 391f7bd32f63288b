"""Serve the page, and nothing else that gradio offers: no uploads, no files, no proxy, no request to another machine."""

import re
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import gradio
import uvicorn
from fastapi import FastAPI
from gradio.themes import Default
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse

from sunlab.demo.markup import STYLE
from sunlab.errors import ConfigError

NEEDED = re.compile(
    r"GET /(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json|((assets|static|svelte)/[\w./+@-]+))?"
    r"|HEAD /"
    r"|GET /gradio_api/(startup-events|info|queue/data|heartbeat/\w+)"
    r"|POST /gradio_api/(queue/join|cancel|reset)"
)
"""The requests of the page itself. gradio has some sixty more, which read, write or fetch."""

POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval'; img-src 'self' data: blob:; font-src 'self' data:; "
    "frame-ancestors 'none'; form-action 'none'"
)
FONTS = ("system-ui", "sans-serif")


class PageOnly:
    """ASGI middleware: what the page does not need does not exist, and the browser loads from nowhere else."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        allowed = scope["type"] == "http" and NEEDED.fullmatch(f"{scope['method']} {scope['path']}")
        if not allowed or ".." in scope["path"]:
            await PlainTextResponse("not found", status_code=404)(scope, receive, send)
            return

        async def closed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, closed)


def application(blocks: gradio.Blocks, host: str) -> FastAPI:
    """The page as an ASGI application. On the loopback interface other names than its own are refused, so that no page of
    another site can reach it through a name that it points here."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(PageOnly)
    if is_loopback(host):
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", host])
    theme = Default(primary_hue="amber", font=FONTS, font_mono=("ui-monospace", "monospace"))
    return gradio.mount_gradio_app(
        app, blocks, path="/", allowed_paths=[], max_file_size=0, footer_links=[], run_history=False, pwa=False,
        enable_monitoring=False, ssr_mode=False, mcp_server=False, show_error=False, theme=theme, css=STYLE,
    )  # fmt: skip


def serve(blocks: gradio.Blocks, *, host: str = "127.0.0.1", port: int = 7860, ready: Callable[[str], None]) -> None:
    """Serve until interrupted.

    Args:
        port: 0: one that is free.
        ready: called with the page's address.

    Raises:
        ConfigError: the host or the port cannot be listened to.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--host {host} --port {port}: {error}; give another port, or 0 for a free one") from None
    with listener:
        config = uvicorn.Config(application(blocks, host), log_level="warning", timeout_graceful_shutdown=2)
        name = f"[{host}]" if ":" in host else host
        ready(f"http://{name}:{listener.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listener])


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
