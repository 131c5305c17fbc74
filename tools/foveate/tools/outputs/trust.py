"""Whom we believe to be the server that we meant."""

from __future__ import annotations

import ssl
from pathlib import Path

from foveate.engines.errors import ConfigError

__all__ = ["tls_context"]


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """What TLS connections are made with: they trust these certificates (PEM), or None: those of the system.

    Raises: ConfigError if they cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        why = "it holds none" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"cannot read certificates to trust from {ca_file}: {why}") from None
