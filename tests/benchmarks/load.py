"""Sends one request over and over, on several connections, each as soon as the answer to its last has come.

    python tests/benchmarks/load.py PORT PATH CONNECTIONS REQUESTS < BODY

Prints JSON: the seconds of all requests together, and of each one.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time


async def ask(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: bytes) -> float:
    """Send a request and receive its whole answer; return the seconds."""
    reader, writer = connection
    started = time.perf_counter()
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].split()[0])
    await reader.readexactly(length)
    if not head.startswith(b"http/1.1 200"):
        raise ValueError(head.decode())
    return time.perf_counter() - started


async def main(port: int, path: str, connections: int, requests: int) -> None:
    """Send all requests, and print their seconds."""
    body = sys.stdin.buffer.read()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body

    async def send_in_turn() -> list[float]:
        connection = await asyncio.open_connection("127.0.0.1", port)
        await ask(connection, request)  # not counted, because it connects and allocates
        ready.release()
        await started.wait()
        return [await ask(connection, request) for _ in range(requests // connections)]

    ready, started = asyncio.Semaphore(0), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        senders = [group.create_task(send_in_turn()) for _ in range(connections)]
        for _ in range(connections):
            await ready.acquire()
        begun = time.perf_counter()
        started.set()
    total = time.perf_counter() - begun
    print(json.dumps({"total": total, "each": [each for sender in senders for each in sender.result()]}))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
