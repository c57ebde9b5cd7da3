"""What an X.509 certificate says: facts for the report, libpq's name check, the channel binding. Pure.

cryptography takes 0.1 s to import, and only a TLS session needs it: the functions import it themselves.
"""

from __future__ import annotations

import hashlib
import ipaddress
from datetime import datetime
from typing import TYPE_CHECKING

from probes.exchanges import Certificate
from probes.failures import clean_text
from probes.model import value

if TYPE_CHECKING:
    from cryptography import x509


@value
class CertificateNames:
    dns: tuple[str, ...]
    addresses: tuple[str, ...]
    common: str | None


def certificate_facts(der: bytes) -> Certificate | None:
    """None where the certificate is too odd to be read."""
    certificate = _load(der)
    if certificate is None:
        return None
    names = _names(certificate)
    shown = names.dns + names.addresses or ((names.common,) if names.common else ())
    return Certificate(
        subject=clean_text(certificate.subject.rfc4514_string()),
        issuer=clean_text(certificate.issuer.rfc4514_string()),
        names=tuple(clean_text(name) for name in shown),
        not_before=_rfc3339(certificate.not_valid_before_utc),
        not_after=_rfc3339(certificate.not_valid_after_utc),
        self_signed=certificate.subject == certificate.issuer,
    )


def name_mismatch(der: bytes, host: str) -> str | None:
    """None where the certificate is for ``host`` as libpq's verify-full sees it, else what it is for."""
    certificate = _load(der)
    if certificate is None:
        return "the server's certificate could not be read"
    names = _names(certificate)
    if names_match(names, host):
        return None
    shown = names.dns + names.addresses or ((names.common,) if names.common else ())
    return f'server certificate for {", ".join(shown) or "no name"} does not match host name "{host}"'


def names_match(names: CertificateNames, host: str) -> bool:
    """libpq: every dNSName may match; the common name only without a subjectAltName of the host's own kind."""
    address = _address(host)
    if any(dns_name_matches(pattern, host) for pattern in names.dns):
        return True
    if address is not None and any(_address(entry) == address for entry in names.addresses):
        return True
    of_this_kind = names.dns if address is None else names.addresses
    return not of_this_kind and names.common is not None and dns_name_matches(names.common, host)


def dns_name_matches(pattern: str, host: str) -> bool:
    """Without regard to case; ``*.`` at the front stands for exactly one label (RFC 6125 6.4.3, as libpq)."""
    pattern, host = pattern.lower(), host.lower()
    if pattern == host:
        return True
    if len(pattern) < 3 or not pattern.startswith("*."):
        return False
    label, dot, _rest = host.partition(".")
    return bool(label and dot) and host[len(label) :] == pattern[1:]


def end_point_digest(der: bytes) -> bytes | None:
    """tls-server-end-point, RFC 5929 4.1: the hash of the signature's algorithm, SHA-256 for MD5 and SHA-1.

    None where the signature has no hash of its own (Ed25519): the RFC leaves that case undefined.
    """
    from cryptography.exceptions import UnsupportedAlgorithm

    certificate = _load(der)
    try:
        algorithm = certificate.signature_hash_algorithm if certificate is not None else None
    except UnsupportedAlgorithm:
        return None
    if algorithm is None:
        return None
    name = "sha256" if algorithm.name in {"md5", "sha1"} else algorithm.name
    return hashlib.new(name, der).digest()


def _load(der: bytes) -> x509.Certificate | None:
    from cryptography import x509

    try:
        return x509.load_der_x509_certificate(der)
    except ValueError:
        return None


def _names(certificate: x509.Certificate) -> CertificateNames:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        alternative = x509.SubjectAlternativeName([])
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return CertificateNames(
        dns=tuple(alternative.get_values_for_type(x509.DNSName)),
        addresses=tuple(str(entry) for entry in alternative.get_values_for_type(x509.IPAddress)),
        common=str(common[0].value) if common else None,
    )


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
