"""A certificate for a test's server, and the authority that signs it, as PEM files."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """Files: the authority's certificate, the server's, and its private key."""

    authority: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path, *hosts: str) -> Certificates:
    """Make an authority and the certificate of a server that is reached by IP addresses, by default 127.0.0.1."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("tests", "server")]
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in names]
    now = datetime.datetime.now(datetime.UTC)
    builders = [
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(names[0])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=name is names[0], path_length=None), critical=True)
        for name, key in zip(names, keys, strict=True)
    ]
    addresses = [x509.IPAddress(ipaddress.ip_address(host)) for host in hosts or ("127.0.0.1",)]
    builders[1] = builders[1].add_extension(x509.SubjectAlternativeName(addresses), critical=False)
    files = [folder / name for name in ("authority.pem", "server.pem", "server.key")]
    for builder, file in zip(builders, files, strict=False):
        signed = builder.sign(keys[0], hashes.SHA256())
        file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    files[2].write_bytes(
        keys[1].private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return Certificates(authority=files[0], certificate=files[1], key=files[2])
