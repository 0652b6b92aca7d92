"""API keys and rate limits: what opens, what does not, and when it opens again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayloom.artifacts.store import Store
from rayloom.cli import main
from rayloom.errors import InputError
from rayloom.serve import api_keys
from rayloom.serve.api_keys import KeyRing
from rayloom.serve.gateway.admission import ANYONE, Admission, RateLimit
from rayloom.serve.transport.relay import Refusal


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def bearer(secret: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {secret}".encode())]


def test_a_created_key_opens_and_a_changed_one_does_not(store: Store) -> None:
    key, secret = api_keys.create(store, "me")
    ring = KeyRing(api_keys.listed(store))
    assert ring.owner(secret) == key
    assert ring.owner(secret[:-1] + ("A" if secret[-1] != "A" else "B")) is None
    assert ring.owner(secret + "A") is None
    assert ring.owner("") is None


def test_a_revoked_key_opens_nothing(store: Store) -> None:
    key, secret = api_keys.create(store, "me")
    _, other = api_keys.create(store, "you")
    api_keys.revoke(store, key.id)
    ring = KeyRing(api_keys.listed(store))
    assert ring.owner(secret) is None
    assert ring.owner(other) is not None


def test_secrets_are_not_kept(store: Store, tmp_path: Path) -> None:
    _, secret = api_keys.create(store, "me")
    kept = "".join(file.read_text() for file in tmp_path.rglob("*") if file.is_file())
    assert secret.rpartition("-")[2] not in kept
    assert secret.split("-", 2)[2] not in kept


def test_keys_in_an_object_store_are_found_too() -> None:
    remote = Store("memory://keys-test")
    key, secret = api_keys.create(remote, "me")
    assert KeyRing(api_keys.listed(remote)).owner(secret) == key
    api_keys.revoke(remote, key.id)
    assert KeyRing(api_keys.listed(remote)).owner(secret) is None


def test_an_unknown_key_cannot_be_revoked_and_a_strange_name_not_given(store: Store) -> None:
    with pytest.raises(InputError, match="no key with this id"):
        api_keys.revoke(store, "../../etc")
    with pytest.raises(InputError, match="valid name for a key"):
        api_keys.create(store, "a\nb")


def test_an_open_door_lets_everyone_in() -> None:
    assert Admission(None, None).admit([]) == ANYONE


def test_a_closed_door_asks_for_a_key_in_either_header(store: Store) -> None:
    key, secret = api_keys.create(store, "me")
    admission = Admission(lambda: KeyRing(api_keys.listed(store)), None)
    assert admission.admit(bearer(secret)) == key.id
    assert admission.admit([(b"x-api-key", secret.encode())]) == key.id
    for headers, code in (([], "missing_api_key"), (bearer("sk-wrong"), "invalid_api_key")):
        with pytest.raises(Refusal) as refused:
            admission.admit(headers)
        assert (refused.value.status, refused.value.code) == (401, code)


def test_a_limit_is_a_burst_and_then_a_rate() -> None:
    clock = Clock()
    limit = RateLimit(clock=clock)
    assert [limit.take("a", 60) for _ in range(60)] == [0.0] * 60
    assert limit.take("a", 60) == pytest.approx(1.0)
    clock.now = 0.5
    assert limit.take("a", 60) == pytest.approx(0.5)
    clock.now = 1.0
    assert limit.take("a", 60) == 0.0
    assert limit.take("a", 60) > 0


def test_limits_are_each_callers_own_and_a_key_may_have_its_own(store: Store) -> None:
    clock = Clock()
    _, few = api_keys.create(store, "few", requests_per_minute=1)
    _, usual = api_keys.create(store, "usual")
    admission = Admission(lambda: KeyRing(api_keys.listed(store)), 2, clock=clock)
    admission.admit(bearer(few))
    with pytest.raises(Refusal) as refused:
        admission.admit(bearer(few))
    assert refused.value.status == 429
    assert dict(refused.value.headers())[b"retry-after"] == b"60"
    admission.admit(bearer(usual))
    admission.admit(bearer(usual))
    with pytest.raises(Refusal):
        admission.admit(bearer(usual))
    clock.now = 60.0
    admission.admit(bearer(few))


@pytest.mark.parametrize("num_gateways", [1, 2, 3, 4])
@pytest.mark.parametrize(("own", "services"), [(10, None), (10, 1000), (None, 10)], ids=["own", "both", "services"])
def test_a_limit_is_that_of_all_gateways_together(
    store: Store, num_gateways: int, own: int | None, services: int | None
) -> None:
    clock = Clock()
    _, secret = api_keys.create(store, "me", requests_per_minute=own)
    ring = KeyRing(api_keys.listed(store))
    gateways = [Admission(lambda: ring, services, num_gateways, clock) for _ in range(num_gateways)]

    def num_admitted() -> int:
        num = 0
        for gateway in gateways * 12:
            try:
                gateway.admit(bearer(secret))
            except Refusal as refusal:
                assert "More than 10 requests" in refusal.message
            else:
                num += 1
        return num

    burst = num_admitted()
    assert 10 - num_gateways < burst <= 10
    later = 0
    for _ in range(150):  # ten minutes
        clock.now += 4
        later += num_admitted()
    assert 100 - num_gateways <= later <= 100


def test_a_limit_below_the_number_of_gateways_holds_after_the_first_requests(store: Store) -> None:
    clock = Clock()
    limits = [RateLimit(4, clock) for _ in range(4)]
    assert sum(limit.take("me", 2) == 0 for limit in limits for _ in range(5)) == 4
    later = 0
    for _ in range(600):
        clock.now += 1
        later += sum(limit.take("me", 2) == 0 for limit in limits)
    assert 16 <= later <= 20


def test_a_caller_who_asks_seldom_is_not_refused_by_a_share_below_one() -> None:
    clock = Clock()
    limit = RateLimit(4, clock)
    for _ in range(5):
        assert limit.take("me", 1) == 0.0
        clock.now += 240
    limit.take("you", 1)
    assert list(limit._buckets) == ["you"]


def test_callers_who_stayed_away_are_forgotten() -> None:
    clock = Clock()
    limit = RateLimit(clock=clock)
    for number in range(100):
        limit.take(str(number), 1)
    clock.now = 1000.0
    limit.take("new", 1)
    assert len(limit._buckets) == 1


def test_the_commands_create_list_and_revoke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYLOOM_STORE", str(tmp_path))
    assert main(["keys", "create", "ci robot", "--requests-per-minute", "5"]) == 0
    secret = capsys.readouterr().out.strip()
    assert main(["keys", "list", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["requests_per_minute"], shown["revoked_at"]) == ("ci robot", 5, None)
    assert "secret" not in json.dumps(shown)
    assert main(["keys", "revoke", shown["id"]]) == 0
    assert KeyRing(api_keys.listed(Store(str(tmp_path)))).owner(secret) is None
    assert main(["keys", "list"]) == 0
    assert "ci robot" in capsys.readouterr().out
