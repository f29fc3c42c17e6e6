"""A network that drops packets, on this machine and without privileges: a TCP relay whose sockets filter all out.

A classic BPF program that keeps nothing is attached to the relay's own sockets, so the kernel discards what arrives
before TCP sees it: no SYN is answered, no data acknowledged, as behind a firewall that drops. Linux only.
"""

import asyncio
import ctypes
import os
import socket
import struct
from typing import Self

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
_RETURN_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)


class DropRelay:
    """`async with DropRelay(upstream.port) as relay`, then `relay.drop()`, `relay.restore()`."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._clients: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        joined = list(self._clients.items())
        for client, _ in joined:
            client.transport.abort()
        await asyncio.gather(*(task for _, task in joined if task))
        await self._server.wait_closed()

    @property
    def base_url(self) -> str:
        """With /v1."""
        return f"http://127.0.0.1:{self.port}/v1"

    def drop(self) -> None:
        """From now on no packet of a client arrives."""
        for number in self._sockets():
            drop_packets(number)

    def restore(self) -> None:
        """Packets arrive again."""
        for number in self._sockets():
            with _borrowed(number) as sock:
                sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)

    def _sockets(self) -> list[int]:
        accepted = [client.get_extra_info("socket").fileno() for client in self._clients]
        return [self._server.sockets[0].fileno(), *(number for number in accepted if number >= 0)]

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients[writer] = asyncio.current_task()
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            del self._clients[writer]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
    except ConnectionError:
        pass
    finally:
        writer.close()


def drop_packets(number: int) -> None:
    """Discard whatever arrives at this socket (a file descriptor)."""
    program = ctypes.create_string_buffer(_RETURN_NOTHING)
    with _borrowed(number) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


def _borrowed(number: int) -> socket.socket:
    return socket.socket(fileno=os.dup(number))
