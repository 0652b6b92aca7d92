"""API keys of the services of a store: created and revoked by commands, stored as digests, read by every gateway.

A key is `rl-ID-SECRET`. The secret has 256 random bits, so its plain SHA-256 can be stored: it cannot be guessed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rayloom.artifacts.store import Store
from rayloom.errors import InputError
from rayloom.serve import records

FOLDER = ".keys"
READ_SECONDS = 2.0
"""Interval at which a gateway reads the keys again."""
MIN_MOUNTED_CHARACTERS = 32
_ID = "[0-9a-f]{8}"
_KEY = re.compile(rf"rl-({_ID})-([\w-]{{43}})")


@dataclass(frozen=True)
class ApiKey:
    """The stored record of a key."""

    id: str
    name: str
    """The owner's name, for people."""
    secret_sha256: str
    created_at: str
    """UTC, ISO 8601."""
    requests_per_minute: int | None = None
    """A limit for this key instead of the service's."""
    revoked_at: str | None = None


def create(store: Store, name: str, requests_per_minute: int | None = None) -> tuple[ApiKey, str]:
    """Creates a key; returns its record, and the key itself, which is not stored."""
    if not re.fullmatch(r"[\w .@-]{1,64}", name):
        fix = "Use up to 64 letters, digits, spaces, `.`, `@`, `_` or `-`."
        raise InputError("This is not a valid name for a key", where=name, fix=fix)
    key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    key = ApiKey(key_id, name, _digest(secret), _now(), requests_per_minute)
    records.write(store, FOLDER, key.id, asdict(key))
    return key, f"rl-{key_id}-{secret}"


def revoke(store: Store, key_id: str) -> ApiKey:
    """Makes a key invalid; running gateways refuse it after a few seconds."""
    # Only this record is read, so that a damaged record of another key does not prevent the revocation.
    record = records.read(store, FOLDER, key_id) if re.fullmatch(_ID, key_id) else None
    if record is None:
        fix = "`rayloom keys list` shows the ids."
        raise InputError("There is no key with this id", where=key_id, fix=fix)
    key = ApiKey(**(record | {"revoked_at": record.get("revoked_at") or _now()}))
    records.write(store, FOLDER, key.id, asdict(key))
    return key


def fail(error: InputError) -> None:
    """The default `reject` of `listed` and `mounted`: raises the error of the first unusable key."""
    raise error


def listed(store: Store, reject: Callable[[InputError], None] = fail) -> list[ApiKey]:
    """All keys, revoked ones too, oldest first. `reject`: called for each damaged record."""
    keys = []
    for record in records.read_all(store, FOLDER, reject):
        try:
            keys.append(ApiKey(**record))
        except TypeError as error:
            fix = "Remove it, or update Rayloom where a newer version wrote it."
            reject(InputError(f"This is not the record of an API key: {error}", where=str(record.get("id")), fix=fix))
    return sorted(keys, key=lambda key: key.created_at)


def mounted(folder: Path, reject: Callable[[InputError], None] = fail) -> list[ApiKey]:
    """The keys in the files of a folder, each named after its owner, as Kubernetes mounts a Secret.

    `reject`: called for each key that is too short to be safe or is not text.
    """
    keys = []
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or not file.is_file():
            continue  # Kubernetes keeps the versions of a Secret in hidden folders there
        text = file.read_bytes().decode("utf-8", "replace").strip()
        if len(text) < MIN_MOUNTED_CHARACTERS or "\ufffd" in text:
            fix = f"Take {MIN_MOUNTED_CHARACTERS} random characters or more, such as `openssl rand -hex 32` gives."
            reason = "is not text" if "\ufffd" in text else "is too short to be safe"
            reject(InputError(f"This API key {reason}", where=str(file), fix=fix))
            continue
        digest = _digest(text)
        keys.append(ApiKey(digest[:8], file.name, digest, created_at=""))
    return keys


class KeyRing:
    """The valid keys, in memory."""

    def __init__(self, keys: Iterable[ApiKey], mounted_keys: Iterable[ApiKey] = ()) -> None:
        self._keys = {key.id: key for key in keys if key.revoked_at is None}
        self._mounted = {key.secret_sha256: key for key in mounted_keys}

    def owner(self, presented: str) -> ApiKey | None:
        """The record of the key that a request presents, or None if it is not valid."""
        if self._mounted and (key := self._mounted.get(_digest(presented))) is not None:
            return key
        match = _KEY.fullmatch(presented)
        key = self._keys.get(match[1]) if match else None
        if match is None or key is None:
            return None
        return key if hmac.compare_digest(_digest(match[2]), key.secret_sha256) else None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
