"""The lab's own certificate authority, kept in the world's folder so that later faults can be signed by it too."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from netdiag.lab.postgres import TlsFiles

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

_DAY = dt.timedelta(days=1)
_NAME = "netdiag lab CA"


class Authority:
    """``Authority(folder)`` is that of the folder, made at the first use. Its certificate is ``certificate``."""

    def __init__(self, folder: Path, name: str = _NAME) -> None:
        self.certificate = folder / "ca.pem"
        self._folder = folder
        self._key_file = folder / "ca.key"
        self._name = name
        if not self.certificate.exists():
            folder.mkdir(parents=True, exist_ok=True)
            self._establish()

    def issue(
        self, names: Sequence[str], *, label: str, valid: tuple[dt.datetime, dt.datetime] | None = None
    ) -> TlsFiles:
        """A server certificate for DNS names and addresses, as ``label``.pem and ``label``.key in the folder.

        ``valid``: first and last moment, with a time zone; by default from yesterday for 30 days.
        """
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        authority = serialization.load_pem_private_key(self._key_file.read_bytes(), password=None)
        assert isinstance(authority, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        draft = _draft(names[0], self._name, *(valid or (now - _DAY, now + 30 * _DAY))).public_key(key.public_key())
        files = self.files(label)
        _sign(draft.add_extension(_alternatives(names), critical=False), authority, files.certificate)
        _write_key(files.key, key)
        return files

    def files(self, label: str) -> TlsFiles:
        """Where what was issued under ``label`` is."""
        place = self._folder / label
        return TlsFiles(
            authority=self.certificate, certificate=place.with_suffix(".pem"), key=place.with_suffix(".key")
        )

    def _establish(self) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        draft = _draft(self._name, self._name, now - 400 * _DAY, now + 400 * _DAY).public_key(key.public_key())
        draft = draft.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        _write_key(self._key_file, key)
        _sign(draft, key, self.certificate)


def _draft(subject: str, issuer: str, start: dt.datetime, end: dt.datetime) -> x509.CertificateBuilder:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    def name(common: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])

    draft = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer))
    return draft.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)


def _alternatives(names: Sequence[str]) -> x509.SubjectAlternativeName:
    from ipaddress import ip_address

    from cryptography import x509

    def general(name: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ip_address(name))
        except ValueError:
            return x509.DNSName(name)

    return x509.SubjectAlternativeName([general(name) for name in names])


def _sign(draft: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, path: Path) -> None:
    from cryptography.hazmat.primitives import hashes, serialization

    path.write_bytes(draft.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    from cryptography.hazmat.primitives import serialization

    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
