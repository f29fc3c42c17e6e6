"""A network that can swallow packets: a TCP relay in front of a server on this machine.

While it swallows, a new connection hangs in SYN as behind a dropping firewall (Linux drops a SYN that finds
the accept queue full), and an open one stays silent both ways: nothing is forwarded, no end is reported.
`restore` lets what waited go on.
"""

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any, Self

_BUFFER = 65_536


class Relay:
    """`async with Relay(upstream.port) as relay`, then `await relay.swallow()`, `await relay.restore()`."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._fillers: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._passing = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.setblocking(False)
        self._listener.bind(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        await self.restore()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._drop_fillers()
        self._listener.close()

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self.port}"

    async def swallow(self) -> None:
        """From now on nothing gets through, until `restore`."""
        self._passing.clear()
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self._listener.listen(0)
        self._fillers = [_started_connect(self.port) for _ in range(2)]

    async def restore(self) -> None:
        """Pass everything on, what waited included."""
        self._drop_fillers()
        self._listener.listen(1024)
        self._passing.set()
        self._accepting = self._spawn(self._accept())

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(self._listener)
            self._spawn(self._join(client))

    async def _join(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except ConnectionRefusedError:
            writer.transport.abort()
            return
        await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(_BUFFER):
                await self._passing.wait()
                writer.write(data)
                await writer.drain()
            await self._passing.wait()
        except ConnectionError:
            pass
        finally:
            writer.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _drop_fillers(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._fillers = []


def _started_connect(port: int) -> socket.socket:
    filler = socket.socket()
    filler.setblocking(False)
    filler.connect_ex(("127.0.0.1", port))
    return filler
