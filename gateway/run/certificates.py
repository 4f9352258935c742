"""Certificates for the picker's TCP servers: configured ones, or self-signed outside loopback."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from gateway.config.schema.picker import ExtProcSection
from gateway.config.schema.tls import ServerTls
from picker.server.listen import Certificate

_LIFETIME: Final = timedelta(days=3650)


def ext_proc_certificate(settings: ExtProcSection, self_signed: Path) -> Certificate | None:
    """Certificate of the ext_proc server; None: plain text. ``self_signed``: file to read when
    none is configured and the server listens outside loopback."""
    if isinstance(settings.tls, ServerTls):
        chain, key = settings.tls.certificate.reveal(), settings.tls.key.reveal()
        return Certificate(chain.encode(), key.encode())
    if settings.tls == "off" or ipaddress.ip_address(settings.address).is_loopback:
        return None
    both = self_signed.read_bytes()
    return Certificate(both, both)


def write_self_signed(path: Path) -> None:
    """A new key and certificate in one PEM file that only this user may read."""
    # Slow to import, and seldom needed.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "penstock")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path.touch(0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
