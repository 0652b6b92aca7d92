"""Transfers to S3, as far as no server is needed: which file systems, where a bucket is, errors, and stopping."""

from __future__ import annotations

import threading
import time

import fsspec
import pytest
from obstore.exceptions import GenericError
from s3fs import S3FileSystem

from rayloom.artifacts.s3 import _each, _errors_of_s3fs, endpoint_and_region, is_plain_s3
from rayloom.errors import InputError, ResourceError, unwrapped


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "key")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("settings", "path", "expected"),
    [
        ({}, "bucket/file", True),
        ({"endpoint_url": "http://127.0.0.1:8"}, "bucket/file", True),
        ({"s3_additional_kwargs": {"SSEKMSKeyId": "key"}}, "bucket/file", False),
        ({"config_kwargs": {"s3": {"addressing_style": "virtual"}}}, "bucket/file", False),
        ({}, "arn:aws:s3:eu-west-1:123456789012:accesspoint/a/file", False),
        ({}, "bucket/two\nlines", False),
        ({}, "bucket//file", False),
    ],
)
def test_what_only_s3fs_can_do_is_left_to_it(
    environment: None, settings: dict[str, object], path: str, expected: bool
) -> None:
    assert is_plain_s3(S3FileSystem(skip_instance_cache=True, **settings), [path]) == expected
    assert not is_plain_s3(fsspec.filesystem("memory"), [path])


@pytest.mark.parametrize(
    ("endpoint", "region", "of_bucket", "expected"),
    [
        ("https://s3.amazonaws.com", "us-east-1", "eu-west-1", ("https://s3.eu-west-1.amazonaws.com", "eu-west-1")),
        ("https://s3.us-west-2.amazonaws.com", "us-west-2", "", ("https://s3.us-west-2.amazonaws.com", "us-west-2")),
        ("https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1", "cn-northwest-1",
         ("https://s3.cn-northwest-1.amazonaws.com.cn", "cn-northwest-1")),
        ("https://minio.example.org", "eu-central-1", "us-east-1", ("https://minio.example.org", "us-east-1")),
        ("https://s3.example.org/amazonaws.com", "a", "b", ("https://s3.example.org/amazonaws.com", "b")),
    ],
)  # fmt: skip
def test_a_bucket_is_asked_for_in_its_own_region_and_never_at_another_company(
    endpoint: str, region: str, of_bucket: str, expected: tuple[str, str]
) -> None:
    assert endpoint_and_region(endpoint, region, of_bucket) == expected


REFUSAL = """Server returned error response: <Error><Code>{}</Code><Message>Please
wait</Message></Error>"""


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        (REFUSAL.format("AccessDenied"), InputError, "Access is denied: Please"),
        (REFUSAL.format("XMinioStorageFull"), ResourceError, "The object store is full"),
        (REFUSAL.format("SlowDown"), ResourceError, "The object store refuses a request: SlowDown"),
        ("error sending request for url", ResourceError, "The object store does not answer"),
    ],
)
def test_errors_mean_what_they_mean_from_s3fs(environment: None, text: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(Exception) as raised, _errors_of_s3fs(S3FileSystem(skip_instance_cache=True)):
        raise GenericError(text)
    error = unwrapped(raised.value)
    assert isinstance(error, kind), error
    assert str(error).startswith(said)


def test_the_first_error_stops_what_runs_and_what_waits() -> None:
    begun = []

    def work(item: int, stop: threading.Event) -> None:
        begun.append(item)
        if item == 0:
            raise ValueError("full")
        assert stop.wait(timeout=30)

    started = time.monotonic()
    with pytest.raises(ValueError, match="full"):
        _each(work, range(100), 4)
    assert time.monotonic() - started < 20
    assert len(begun) <= 8
