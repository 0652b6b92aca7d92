"""The peer of `fleet.py` that moves files by obstore: `ENDPOINT BUCKET FOLDER NAME up|down NUM_FILES`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from obstore.store import S3Store  # type: ignore[import-not-found]


async def main() -> None:
    endpoint, bucket, folder, name, way, num_files = sys.argv[1:]
    store = S3Store(
        bucket,
        endpoint=endpoint,
        access_key_id="rayloom",
        secret_access_key="rayloom",
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "timeout": "600s"},
    )
    files = [f"part-{number}.safetensors" for number in range(int(num_files))]
    await asyncio.gather(*(_move(store, Path(folder) / file, f"{name}/{file}", way == "up") for file in files))


async def _move(store: S3Store, file: Path, key: str, is_up: bool) -> None:
    if is_up:
        await store.put_async(key, file, chunk_size=32 << 20, max_concurrency=4)
        return
    answer = await store.get_async(key)
    with file.open("wb") as target:
        async for block in answer.stream(min_chunk_size=8 << 20):
            target.write(block)


asyncio.run(main())
