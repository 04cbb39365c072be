"""A program on ComfyUI's interpreter: what a server tells a browser, one JSON line an event.

Usage: python listen.py URL CLIENT_ID; it ends with its standard input. Pictures are told by their
kind and sizes.
"""

from __future__ import annotations

import asyncio
import io
import json
import struct
import sys
from typing import Any

import aiohttp
from PIL import Image

PREVIEW_IMAGE = 1


async def listen(url: str, client_id: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/ws?clientId={client_id}", max_msg_size=0) as socket,
    ):
        async for message in socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                tell(json.loads(message.data))
            elif message.type == aiohttp.WSMsgType.BINARY:
                tell(describe(message.data))


def describe(frame: bytes) -> dict[str, Any]:
    (kind,) = struct.unpack(">I", frame[:4])
    if kind != PREVIEW_IMAGE:
        return {"type": "binary", "data": {"kind": kind}}
    with Image.open(io.BytesIO(frame[8:])) as picture:  # after the kind of picture, 4 bytes
        return {"type": "preview", "data": {"format": picture.format, "size": picture.size}}


def tell(event: Any) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


async def main() -> None:
    listening = asyncio.ensure_future(listen(*sys.argv[1:]))
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await asyncio.wait([listening, ended], return_when=asyncio.FIRST_COMPLETED)
    listening.cancel()


if __name__ == "__main__":
    asyncio.run(main())
