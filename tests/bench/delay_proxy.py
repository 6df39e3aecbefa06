"""A TCP proxy on 127.0.0.1 that makes a near host a far one: bytes come later, never fewer at a time."""

from __future__ import annotations

import asyncio
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_CHUNK = 1 << 16

#: What is on its way in one direction: when it is due, and the bytes; none at all for the end. Unbounded, since a
#: limit would be a throttle.
Line = asyncio.Queue[tuple[float, bytes]]


class DelayProxy:
    """Forwards connections, each direction half a round trip late.

    Every chunk gets its own due time when it arrives, so chunks travel at the same time, as on a long line. Only the
    acknowledgements of TCP are local: what Nagle's algorithm would cost on a real line is understated.
    """

    def __init__(self, round_trip: float) -> None:
        """round_trip: in seconds"""
        self._round_trip = round_trip
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []

    def listen(self, port: int) -> int:
        """Forward to `port` of 127.0.0.1; the port to connect to instead."""
        return asyncio.run_coroutine_threadsafe(self._listen(port), self._loop).result(timeout=10)

    def run(self) -> None:
        """Forward until `stop`, in the thread that calls this."""
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._end())
        finally:
            self._loop.close()

    def stop(self) -> None:
        """Cut all connections; from any thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _listen(self, port: int) -> int:
        async def serve(reader: StreamReader, writer: StreamWriter) -> None:
            with suppress(asyncio.CancelledError, OSError):  # `stop`, or nobody listens there
                await self._forward(reader, writer, port)
            writer.close()

        self._servers.append(await asyncio.start_server(serve, "127.0.0.1", 0))
        return int(self._servers[-1].sockets[0].getsockname()[1])

    async def _forward(self, reader: StreamReader, writer: StreamWriter, port: int) -> None:
        out, back = Line(), Line()
        taking = asyncio.create_task(self._take(reader, out))
        # A real handshake takes a round trip, and the server learns of its end half a one later.
        await asyncio.sleep(1.5 * self._round_trip)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(
            taking, self._give(out, there_writer), self._take(there_reader, back), self._give(back, writer)
        )

    async def _take(self, reader: StreamReader, line: Line) -> None:
        chunk = b"-"
        while chunk:
            try:
                chunk = await reader.read(_CHUNK)
            except OSError:  # reset by the other side
                chunk = b""
            line.put_nowait((self._loop.time() + self._round_trip / 2, chunk))

    async def _give(self, line: Line, writer: StreamWriter) -> None:
        while True:
            due, chunk = await line.get()
            await asyncio.sleep(due - self._loop.time())
            if not chunk:
                writer.close()
                return
            writer.write(chunk)

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def delay_proxy(round_trip: float) -> Iterator[DelayProxy]:
    """A proxy that forwards while the block runs."""
    proxy = DelayProxy(round_trip)
    thread = threading.Thread(target=proxy.run, name="delay proxy")
    thread.start()
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join()
