"""Files up to S3 and down from it by obstore, several at once in bounded memory.

s3fs, whose event loop runs in Python, is for what is small: it lists, and reads and writes single records. It also
finds endpoint, region and credentials, so that both take the same from the environment or the node's role.

A file goes up in parts of 16 MiB and comes down in ranges of 512 MiB, each of which is one stream that continues at
its last byte if the connection is cut. Sixteen of either at once take at most 16 × 16 MiB of memory. The shards of a
70B model in bf16 (30 files of 4.7 GB) are 281 parts each: 8,430 requests up, and 270 down on each node that reads them.
"""

from __future__ import annotations

import functools
import hashlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from rayloom.engine_errors import refusal_in
from rayloom.errors import InputError

PART_BYTES = 16 << 20
MOST_PARTS = 10_000
"""Of a file, by S3's rules; larger parts make up for it."""
FILES_AT_ONCE, PARTS_AT_ONCE = 4, 4
RANGE_BYTES = 512 << 20
"""A stream of S3's carries some 90 MB/s: what is smaller is not worth a second one."""
RANGES_AT_ONCE = 16
BLOCK_BYTES = 4 << 20
RETRIES: dict[str, Any] = {"max_retries": 10, "retry_timeout": timedelta(minutes=2)}
STALL = "60s"
CREDENTIALS_FOR = timedelta(minutes=6)
"""How long credentials are used before botocore is asked again, which renews those of a role 10 minutes ahead."""
_ODD = re.compile(r"^arn:|//|(^|/)\.{1,2}(/|$)|[\x00-\x1f\x7f]")
"""Access points, and names that obstore refuses."""
_OF_S3FS = {"addressing_style", "use_accelerate_endpoint"}
"""Settings of a profile that change where a bucket is asked for."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Wanted:
    """A file of the store that is to be on this machine."""

    there: str
    here: Path
    size_bytes: int
    sha256: str = ""
    """Empty if it is not to be checked."""


def is_plain_s3(filesystem: fsspec.AbstractFileSystem, paths: Sequence[str]) -> bool:
    """Whether it is S3 with nothing that only s3fs can do: encryption keys, access points, other addressing.

    Where someone has installed s3fs alone, all is left to it.
    """
    if type(filesystem).__name__ != "S3FileSystem" or any(map(_ODD.search, paths)) or find_spec("obstore") is None:
        return False
    settings = filesystem.s3.meta.config.s3 or {}
    return set(filesystem.storage_options) <= {"endpoint_url"} and settings.keys().isdisjoint(_OF_S3FS)


def upload(filesystem: fsspec.AbstractFileSystem, files: Sequence[tuple[Path, str]]) -> None:
    """Copies files of this machine to the store. A file is there when all its parts are, or not at all."""
    import obstore

    buckets = _buckets(filesystem, [there for _, there in files])

    def put(file: tuple[Path, str], stop: threading.Event) -> None:
        bucket, _, key = file[1].partition("/")
        size = file[0].stat().st_size
        part = max(PART_BYTES, -(-size // MOST_PARTS))
        content = file[0].read_bytes() if size <= part else _blocks(file[0], part, stop)
        obstore.put(buckets[bucket], key, content, chunk_size=part, max_concurrency=PARTS_AT_ONCE)

    with _errors_of_s3fs(filesystem):
        _each(put, files, FILES_AT_ONCE)


def download(filesystem: fsspec.AbstractFileSystem, files: Sequence[Wanted]) -> list[Wanted]:
    """Copies files of the store to this machine. Returns those that came with another digest."""
    buckets = _buckets(filesystem, [file.there for file in files])
    ranges = [(file, start) for file in files for start in range(0, max(file.size_bytes, 1), RANGE_BYTES)]
    left, lock = Counter(file for file, _ in ranges), threading.Lock()
    digests = {file: hashlib.sha256() for file in files}
    for file in files:
        file.here.write_bytes(b"")

    def get(part: tuple[Wanted, int], stop: threading.Event) -> bool:
        """Fetches a range; whether it was the last one of a file that has another digest."""
        file, start = part
        bucket, _, key = file.there.partition("/")
        end = start + RANGE_BYTES
        with _named(file.here), file.here.open("r+b") as here:
            here.seek(start)
            for block in _read(buckets[bucket], key, start, end if end < file.size_bytes else None):
                here.write(block)
                if start == 0 and file.sha256:
                    digests[file].update(block)
                if stop.is_set():
                    return False
        with lock:
            left[file] -= 1
            is_whole = left[file] == 0
        return is_whole and file.sha256 != "" and _hashed(file, digests[file]) != file.sha256

    with _errors_of_s3fs(filesystem):
        damaged = _each(get, ranges, RANGES_AT_ONCE)
    return [file for (file, _), is_damaged in zip(ranges, damaged, strict=True) if is_damaged]


def _hashed(file: Wanted, digest: Any) -> str:
    """The file's SHA-256. `digest`: of its first range, which was hashed as it came."""
    with file.here.open("rb") as here:
        here.seek(RANGE_BYTES)
        while file.size_bytes > RANGE_BYTES and (block := here.read(BLOCK_BYTES)):
            digest.update(block)
    return str(digest.hexdigest())


def _read(bucket: Any, key: str, at: int, end: int | None) -> Iterator[Any]:
    """The bytes from `at` to `end` (None: the file's end), in blocks. A stream that breaks goes on where it broke."""
    import obstore

    while end is None or at < end:
        began = at
        try:
            stream = obstore.get(bucket, key, options={"range": {"offset": at} if end is None else (at, end)})
            for block in stream.stream(BLOCK_BYTES):
                yield block
                at += len(block)
            return
        except obstore.exceptions.GenericError as error:
            if refusal_in(str(error))[0] == "InvalidRange":
                return  # the file is shorter than it should be, which its digest says
            if at == began:
                raise


def _blocks(file: Path, num_bytes: int, stop: threading.Event) -> Iterator[bytes]:
    with file.open("rb", buffering=0) as content:
        while block := content.read(num_bytes):
            if stop.is_set():
                raise InterruptedError(str(file))
            yield block


def _each(work: Callable[[Item, threading.Event], Result], items: Sequence[Item], at_once: int) -> list[Result]:
    """The results, in order. At the first error, or if this thread is interrupted, those that run are told to stop."""
    stop = threading.Event()
    with ThreadPoolExecutor(at_once, thread_name_prefix="rayloom-s3") as pool:
        try:
            return list(pool.map(lambda item: work(item, stop), items))
        finally:
            stop.set()


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Gives errors of writing a file, such as that of a full disk, the file's name."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(file)
        raise


# What s3fs knows: where buckets are, with which credentials, and what an error means.


def _buckets(filesystem: fsspec.AbstractFileSystem, paths: Sequence[str]) -> dict[str, Any]:
    return {bucket: _bucket(filesystem, filesystem.s3, bucket) for bucket in {path.partition("/")[0] for path in paths}}


@functools.lru_cache(maxsize=8)
def _bucket(filesystem: fsspec.AbstractFileSystem, client: Any, name: str) -> Any:
    """obstore's bucket. `client`: the file system's; another one has connections, and perhaps settings, of its own."""
    from obstore.store import S3Store

    session, known = filesystem.session, client.meta
    endpoint, region = endpoint_and_region(known.endpoint_url, known.region_name, _region_of(filesystem, name))
    options: dict[str, Any] = {"allow_http": True, "timeout": "1day", "read_timeout": STALL}
    certificates = session.get_config_variable("ca_bundle")
    if certificates:
        options["root_certificate"] = Path(certificates).read_bytes()

    def credentials() -> dict[str, Any]:
        found = fsspec.asyn.sync(filesystem.loop, _credentials, session)
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_FOR,
        }

    return S3Store(
        name,
        aws_endpoint_url_s3=endpoint,
        virtual_hosted_style_request=False,
        region=region,
        client_options=options,
        retry_config=RETRIES,
        credential_provider=credentials,
    )


async def _credentials(session: Any) -> Any:
    found = await session.get_credentials()
    return await found.get_frozen_credentials()


def no_bucket(name: str, uri: str) -> InputError:
    fix = "Make it, or correct RAYLOOM_STORE (and for S3 AWS_ENDPOINT_URL and AWS_DEFAULT_REGION)."
    return InputError(f"There is no bucket {name}", where=uri, fix=fix)


def _region_of(filesystem: fsspec.AbstractFileSystem, bucket: str) -> str:
    """The bucket's region, as the server says, also to those who may not list it; empty if it does not."""
    from botocore.exceptions import ClientError

    try:
        answer = filesystem.call_s3("head_bucket", Bucket=bucket)
    except FileNotFoundError:
        raise no_bucket(bucket, f"s3://{bucket}") from None
    except PermissionError as error:
        if not isinstance(error.__cause__, ClientError):
            raise
        answer = error.__cause__.response
    return str(answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", ""))


def endpoint_and_region(endpoint: str, region: str, region_of_bucket: str) -> tuple[str, str]:
    """Where a bucket is asked for. Amazon's endpoint of another region redirects, which obstore does not follow."""
    if not region_of_bucket or region_of_bucket == region:
        return endpoint, region
    amazons = re.fullmatch(r"https://s3[\w.-]*(\.amazonaws\.com(?:\.cn)?)/?", endpoint)
    return f"https://s3.{region_of_bucket}{amazons[1]}" if amazons else endpoint, region_of_bucket


@contextmanager
def _errors_of_s3fs(filesystem: fsspec.AbstractFileSystem) -> Iterator[None]:
    """Raises what s3fs would have raised, so that an error has one meaning whichever of the two meets it."""
    from botocore.exceptions import ClientError, EndpointConnectionError
    from obstore.exceptions import BaseError, GenericError
    from s3fs.errors import translate_boto_error

    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        code, message = refusal_in(str(error))
        if code:
            refusal = ClientError({"Error": {"Code": code, "Message": message}}, "transfer")
            raise translate_boto_error(refusal) from refusal
        if isinstance(error, GenericError):
            raise EndpointConnectionError(endpoint_url=filesystem.s3.meta.endpoint_url, error=error) from error
        raise
