"""Nodes that speak TLS to each other, with certificates made here: a job runs on them, and plain text is refused."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.training_cluster import networks_if_allowed, own_cache

from rayloom.submit.local_cluster import LocalCluster, down, up
from rayloom.submit.local_node import LOOPBACK, Shape

# The cluster's nodes outlive the call that started them, as they should.
NODES_LIVE_ON = pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
pytestmark = [pytest.mark.full, NODES_LIVE_ON]
PORT, DASHBOARD_PORT = 6437, 8297
JOB = "kind: import\nname: sealed\nsource: {type: folder, path: ./pages}\ncontent: {type: dataset}\nlicence: MIT\n"


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _write_certificates(folder: Path, addresses: Sequence[str]) -> dict[str, str]:
    """An authority, and one certificate for all addresses here; elsewhere each node has its own. Ray's variables."""
    now = datetime.datetime.now(datetime.UTC)
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def signed(name: str, of: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> bytes:
        made = x509.CertificateBuilder(
            issuer_name=_named("authority"),
            subject_name=_named(name),
            public_key=of.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(minutes=5),
            not_valid_after=now + datetime.timedelta(days=1),
        ).add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return made.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses)]
    )
    files = {
        "RAY_TLS_CA_CERT": signed("authority", authority, x509.BasicConstraints(ca=True, path_length=0)),
        "RAY_TLS_SERVER_CERT": signed("node", key, names),
        "RAY_TLS_SERVER_KEY": key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    }
    for name, content in files.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(content)
    return {"RAY_USE_TLS": "1", **{name: str(folder / name) for name in files}}


@dataclass(frozen=True)
class Sealed:
    """A cluster of two nodes under TLS."""

    cluster: LocalCluster
    folder: Path

    def rayloom(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        return subprocess.run(
            [sys.executable, "-m", "rayloom", *arguments],
            cwd=self.folder,
            env=kept | {"RAYLOOM_STORE": str(self.folder / "store")} | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sealed]:
    folder = tmp_path_factory.mktemp("tls")
    (folder / "pages").mkdir()
    (folder / "pages" / "a.jsonl").write_text('{"text": "one"}\n')
    (folder / "job.yaml").write_text(JOB)
    networks = networks_if_allowed(2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:  # Ray takes the address that the way out begins with
        way.connect(("192.0.2.1", 9))
        outer = way.getsockname()[0]
    addresses = [networks.address(node) for node in range(2)] if networks else [outer]
    environment = _write_certificates(folder, [LOOPBACK, *addresses])
    with own_cache(folder / "cache"):
        try:
            yield Sealed(up(Shape(2, 2, PORT, DASHBOARD_PORT, environment=environment), networks), folder)
        finally:
            down()


def test_a_job_runs_on_nodes_that_speak_tls(sealed: Sealed) -> None:
    """Its first act asks every node whether it sees the store."""
    ended = sealed.rayloom("submit", "job.yaml", "--wait")
    assert ended.returncode == 0, ended.stderr + sealed.rayloom("jobs", "logs", "sealed").stdout
    assert len(sealed.cluster.api().nodes()) == 2


def test_the_control_store_shows_its_certificate_and_takes_no_plain_text(sealed: Sealed) -> None:
    host, _, port = sealed.cluster.gcs_address.rpartition(":")
    files = sealed.cluster.shape.environment
    context = ssl.create_default_context(cafile=files["RAY_TLS_CA_CERT"])
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(files["RAY_TLS_SERVER_CERT"], files["RAY_TLS_SERVER_KEY"])
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as wrapped,
    ):
        assert wrapped.version() in ("TLSv1.2", "TLSv1.3")
    with socket.create_connection((host, int(port)), timeout=10) as plain:
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        assert b"\x00\x00\x00\x04\x00" not in plain.recv(64), "that would be HTTP/2's answer in plain text"


def test_a_driver_without_certificates_gets_one_sentence(sealed: Sealed) -> None:
    token = {name: value for name, value in sealed.cluster.environment.items() if not name.startswith("RAY_TLS")}
    ended = sealed.rayloom("run", "job.yaml", **(token | {"RAY_USE_TLS": "0"}))
    assert ended.returncode == 4, ended.stderr
    assert ended.stderr.count("error: ") == 1
    assert "RAY_USE_TLS" in ended.stderr
