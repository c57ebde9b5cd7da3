"""TLS against Python's own server, with certificates made for the test and facts read by the openssl program."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from probes.exchanges import TlsRequest
from probes.model import FailureKind, NetworkFailure
from tests.loopback.test_net_tcp import deadline, server, stream

pytestmark = pytest.mark.loopback

NOT_BEFORE = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
NOT_AFTER = datetime.datetime(2124, 1, 1, tzinfo=datetime.UTC)


class Authority:
    """A certificate authority of this test alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        certificate = self._builder(self.name, self.key).add_extension(constraints, critical=True)
        self.path = folder / "ca.pem"
        self.path.write_bytes(certificate.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOT_BEFORE)
            .not_valid_after(NOT_AFTER)
        )

    def leaf(self, common: str, names: list[x509.GeneralName], digest: hashes.HashAlgorithm) -> Path:
        """Certificate and key in one PEM file."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)]), key)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        path = self.folder / "leaf.pem"
        path.write_bytes(
            builder.sign(self.key, digest).public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return path


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def tls_server(certificate: Path, seen: list[str | None] | None = None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["postgresql"])
    if seen is not None:
        context.sni_callback = lambda _sock, name, _context: seen.append(name)

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as tls:
            while data := tls.recv(65536):
                tls.sendall(data.upper())

    return server(serve)


async def session(port: int, request: TlsRequest):
    opened = await stream(port)
    try:
        return await opened.start_tls(request, deadline())
    finally:
        await opened.close()


def full(authority: Authority, name: str) -> TlsRequest:
    return TlsRequest(server_name=name, verify="full", root_certificate=str(authority.path))


async def test_a_verified_session_carries_bytes_and_facts(authority):
    names: list[x509.GeneralName] = [x509.DNSName("db.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    path, seen = authority.leaf("ignored", names, hashes.SHA256()), []
    with tls_server(path, seen) as port:
        opened = await stream(port)
        facts = await opened.start_tls(full(authority, "db.example"), deadline())
        text = b"hello" * 50_000
        await opened.send(text, deadline())
        received = b""
        while len(received) < len(text):
            received += await opened.receive(100_000, deadline())
        binding = opened.channel_binding()
        await opened.close()
    assert received == text.upper()
    assert seen == ["db.example"]
    assert facts.version == "TLSv1.3"
    assert facts.certificate is not None
    assert facts.certificate.names == ("db.example", "127.0.0.1")
    assert (facts.certificate.not_before, facts.certificate.not_after) == openssl_dates(path)
    assert facts.certificate.issuer == "CN=test authority"
    assert facts.certificate.self_signed is False
    assert binding == hashlib.sha256(der(path)).digest()


def der(path: Path) -> bytes:
    return subprocess.run(
        ["openssl", "x509", "-in", str(path), "-outform", "DER"], capture_output=True, check=True
    ).stdout


def openssl_dates(path: Path) -> tuple[str, str]:
    command = ["openssl", "x509", "-in", str(path), "-noout", "-dates", "-dateopt", "iso_8601"]
    lines = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
    first, last = (line.partition("=")[2].replace(" ", "T", 1) for line in lines)
    return first, last


@pytest.mark.parametrize(("digest", "name"), [(hashes.SHA384(), "sha384"), (hashes.SHA512(), "sha512")])
async def test_channel_binding_uses_the_signatures_hash(authority, digest, name):
    path = authority.leaf("db.example", [], digest)
    with tls_server(path) as port:
        opened = await stream(port)
        await opened.start_tls(TlsRequest(server_name="db.example"), deadline())
        binding = opened.channel_binding()
        await opened.close()
    assert binding == hashlib.new(name, der(path)).digest()


@pytest.mark.parametrize(
    ("common", "names", "asked", "accepted"),
    [
        ("db.example", [], "DB.example", True),
        ("db.example", [x509.DNSName("other.example")], "db.example", False),
        ("db.example", [x509.IPAddress(ipaddress.ip_address("10.0.0.1"))], "db.example", True),
        ("x", [x509.DNSName("*.example")], "db.example", True),
        ("x", [x509.DNSName("*.example")], "a.db.example", False),
        ("x", [x509.DNSName("*.example")], "example", False),
        ("x", [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))], "127.0.0.1", True),
        ("127.0.0.1", [x509.DNSName("other.example")], "127.0.0.1", True),
        ("127.0.0.1", [x509.IPAddress(ipaddress.ip_address("10.0.0.1"))], "127.0.0.1", False),
        ("x", [x509.DNSName("127.0.0.1")], "127.0.0.1", True),
    ],
)
async def test_names_are_compared_as_libpq_does(authority, common, names, asked, accepted):
    with tls_server(authority.leaf(common, names, hashes.SHA256())) as port:
        if accepted:
            assert (await session(port, full(authority, asked))).certificate is not None
        else:
            with pytest.raises(NetworkFailure) as raised:
                await session(port, full(authority, asked))
            assert raised.value.failure.kind is FailureKind.TLS
            assert "does not match host name" in str(raised.value.failure.detail)


async def test_an_unknown_authority_fails_with_openssls_reason(authority):
    path = authority.leaf("db.example", [], hashes.SHA256())
    with tls_server(path) as port, pytest.raises(NetworkFailure) as raised:
        await session(port, TlsRequest(server_name="db.example", verify="ca"))
    assert raised.value.failure.kind is FailureKind.TLS
    assert raised.value.failure.detail == "certificate verify failed: unable to get local issuer certificate"
    with tls_server(path) as port:
        request = TlsRequest(server_name="wrong.example", verify="ca", root_certificate=str(authority.path))
        assert (await session(port, request)).certificate is not None
    with tls_server(path) as port:
        assert (await session(port, TlsRequest(server_name="wrong.example"))).certificate is not None


@pytest.mark.parametrize(
    "given", [{"root_certificate": "/nonexistent.pem"}, {"client_certificate": "/nonexistent.pem"}]
)
async def test_a_file_that_is_not_there_is_named_and_ends_tls_as_it_ends_libpqs(given):
    with server(lambda connection: None) as port, pytest.raises(NetworkFailure) as raised:
        await session(port, TlsRequest(server_name="x", verify="ca", **given))
    assert raised.value.failure.kind is FailureKind.TLS
    assert '"/nonexistent.pem" cannot be used: No such file' in (raised.value.failure.detail or "")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n", FailureKind.TLS), (b"", FailureKind.CLOSED)],
)
async def test_a_server_that_does_not_speak_tls(answer, kind):
    def serve(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(answer)

    with server(serve) as port, pytest.raises(NetworkFailure) as raised:
        await session(port, TlsRequest(server_name="db.example"))
    assert (raised.value.failure.kind, raised.value.failure.operation) == (kind, "tls")


async def test_a_server_that_keeps_silent_times_out():
    with server(lambda connection: [connection.recv(4096) for _ in range(2)] and None) as port:
        opened = await stream(port)
        with pytest.raises(NetworkFailure) as raised:
            await opened.start_tls(TlsRequest(server_name="db.example"), deadline(0.2))
        await opened.close()
    assert (raised.value.failure.kind, raised.value.failure.operation) == (FailureKind.TIMEOUT, "tls")
