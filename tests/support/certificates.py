"""Certificates for TLS tests, made by the openssl program: one authority, and a server of the loopback that it signed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def find_openssl() -> str | None:
    return shutil.which("openssl")


def make_certificates(directory: Path) -> None:
    """Write ca.crt, server.key and server.crt (for 127.0.0.1 and localhost), and other.crt, an authority that signed nothing."""
    for authority in ("ca", "other"):
        key, certificate = f"{authority}.key", f"{authority}.crt"
        _openssl(directory, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate)
    _openssl(directory, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.csr")
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    signing = ("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial")
    _openssl(directory, *signing, "-out", "server.crt", "-extfile", "names", subject=False)


def _openssl(directory: Path, *arguments: str, subject: bool = True) -> None:
    named = (*arguments, "-subj", f"/CN={arguments[-1]}") if subject else arguments
    openssl = find_openssl()
    assert openssl is not None
    subprocess.run([openssl, *named], cwd=directory, check=True, capture_output=True, timeout=60)
