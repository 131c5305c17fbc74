"""Certificates for servers on loopback."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.system_programs import require_program

__all__ = ["own_certificate"]


def own_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key, both PEM."""
    program = require_program("openssl")
    path, key = folder / "own.pem", folder / "own.key"
    command = [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path, key
