"""Where a server is, and who we are to it: told apart, so that one can be shown and the other never is."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from foveate.engines.errors import ConfigError

__all__ = ["Address", "address_from_url", "with_variables"]

_VARIABLE = re.compile(r"\$\{([^{}]*)\}")
_UNSEEN = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address. Its text is what may be shown: no user, no password, no path (chat services keep their
    tokens there)."""

    scheme: str
    host: str
    port: int | None
    """None: the scheme's own."""
    user: str = field(repr=False)
    password: str = field(repr=False)
    path: str = field(repr=False)
    """From the first slash on, with the query."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" if self.port is None else f"{self.scheme}://{host}:{self.port}"


def address_from_url(url: str, schemes: Mapping[str, int | None], where: str) -> Address:
    """The address in a URL, with the variables of the environment that it names: ``mqtts://me:${PASSWORD}@broker``.

    A variable's value stands as it is; in what is written out, `%40` and its like are understood. `schemes` has the
    ports that hold where the URL names none; `where` says in an error which setting it is about.
    Raises: ConfigError, without quoting the URL.
    """
    parts = _split(url, where)
    if parts.scheme not in schemes or not parts.hostname:
        raise ConfigError(f"{where}: expected a URL like {' or '.join(f'{scheme}://HOST' for scheme in schemes)}")
    if parts.fragment or (parts.username is None and parts.port is not None and "@" in parts.path + parts.query):
        # Otherwise half a password would pass for a host and a port, and be shown.
        raise ConfigError(
            f"{where}: write #, ?, / and @ as %23, %3F, %2F and %40 within a URL's user, password or path"
        )
    path = with_variables(parts.path + (f"?{parts.query}" if parts.query else ""), where)
    if _UNSEEN.search(path):
        raise ConfigError(f"{where}: a space or control character in the URL's path: write it as %20 and the like")
    return Address(
        parts.scheme,
        _known_name(parts.hostname, where),
        parts.port or schemes[parts.scheme],
        with_variables(parts.username or "", where, unquote),
        with_variables(parts.password or "", where, unquote),
        path,
    )


def with_variables(text: str, where: str, written: Callable[[str], str] = str) -> str:
    """The text with each ``${NAME}`` replaced by that variable of the environment; `written` is applied to the rest.

    Raises: ConfigError if there is no such variable.
    """
    words = _VARIABLE.split(text)  # what is written and names of variables, in turn
    return "".join(_variable(word, where) if index % 2 else written(word) for index, word in enumerate(words))


def _variable(name: str, where: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise ConfigError(f"{where} names the environment variable {name}, which is not set")
    return value


def _split(url: str, where: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # read late by urlsplit, and refused then
    except ValueError:
        raise ConfigError(f"{where}: the URL's host or port cannot be understood") from None
    return parts


def _known_name(host: str, where: str) -> str:
    try:
        host.encode("idna" if not host.isascii() else "ascii").decode()
        if any(not 0 < len(label) < 64 for label in host.rstrip(".").split(".")):
            raise UnicodeError
    except UnicodeError:
        raise ConfigError(f"{where}: the URL's host is no name of a computer") from None
    return host
