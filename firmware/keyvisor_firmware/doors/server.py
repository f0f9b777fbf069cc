"""One door: an application behind a Unix socket that only our own user and root may use.

The only module that knows uvicorn. Knows no route.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from keyvisor_firmware.broker.listening import listening
from keyvisor_firmware.broker.peers import StrangePeer, require_own_peer

MAX_CONNECTIONS: Final = 64  # of one door
_BACKLOG: Final = 128
_GRACE_SECONDS: Final = 2
_KEEP_ALIVE_SECONDS: Final = 5


class CheckedProtocol(H11Protocol):
    """HTTP for peers that may come in. Of all others not a byte is read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        try:
            require_own_peer(transport.get_extra_info("socket"))
        except (StrangePeer, OSError):
            transport.abort()
            return
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()


class _Server(uvicorn.Server):
    """uvicorn's server, one of many: signals are the daemon's, and as long as nobody comes a door does nothing at all.

    uvicorn's own loop looks ten times a second whether it is to end, which a thousand guests' doors pay for.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._end = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self.on_tick(
            0
        )  # what it sets once is not changed later: no date in the headers, no limit of requests
        await self._end.wait()

    def end(self) -> None:
        """Take nobody in any more; `serve` returns when those who are in have their answers."""
        self.should_exit = True
        self._end.set()


class Door:
    """A door that is open from `open` to `close`."""

    def __init__(self, path: Path, server: _Server, serving: asyncio.Task[None]) -> None:
        self.path = path
        self._server = server
        self._serving = serving

    @classmethod
    async def open(cls, path: Path, app: ASGIApp) -> Door:
        """Make the socket, mode 0600, and serve `app` there. Raises OSError."""
        listener = listening(path, _BACKLOG)
        server = _Server(
            uvicorn.Config(
                app,
                http=CheckedProtocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )
        return cls(path, server, asyncio.create_task(server.serve([listener]), name=f"door {path.name}"))

    async def close(self) -> None:
        """Answer what is under way, for a moment, and be gone."""
        self.path.unlink(missing_ok=True)
        self._server.end()
        await self._serving
