"""Where a camera is: what its URL says, and how it is called where people read it, which is without its secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

__all__ = ["Address", "Kind", "Redaction"]

_STREAMED_SCHEMES = ("rtsp", "rtsps", "http", "https")
_DEVICE = re.compile(r"/dev/video\d+")
_HIDDEN = "***"
_NO_HOST = "the URL names no host, or a port that is none: expected rtsp://HOST[:PORT]/PATH"
# A user's name and password may hold any character but a blank, as people do not escape them; the last @ before the
# path ends them, as FFmpeg reads it.
_CREDENTIALS = re.compile(r"(?<=://)[^\s/'\"]*@")
_PASSWORDS_IN_URLS = re.compile(
    r"(?i)\b(\w*(?:pass(?:word|wd)?|pwd|psw|token|secret|key|auth|signature|sig)=)[^&\s'\"/]+"
)
_SHORTEST_SECRET = 3
"""A shorter one is hidden inside URLs only: it may be part of any word."""


class Kind(StrEnum):
    """What is read, which decides how."""

    STREAM = "stream"
    """By network: RTSP, or MJPEG or video over HTTP."""
    DEVICE = "device"
    """A camera of this machine, through Video4Linux."""
    FILE = "file"
    FOLDER = "folder"
    """The pictures in it, in the order of their names."""

    @property
    def has_end(self) -> bool:
        """Whether it ends by itself; the end of a camera is a lost connection."""
        return self in (Kind.FILE, Kind.FOLDER)


@dataclass(frozen=True, slots=True)
class Address:
    """One camera's URL, path or index, taken apart."""

    kind: Kind
    target: str
    """For FFmpeg. It may hold credentials."""
    shown: str
    """For people: no credentials, and neither path nor query of a URL, where vendors put them too."""
    host: str
    """What a camera without a name is called."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises: ValueError, without the text itself, if nothing can be read from there."""
        scheme, separator, _ = text.partition("://")
        if not separator:
            return cls._of_path(text)
        if scheme.lower() not in _STREAMED_SCHEMES:
            known = ", ".join(f"{each}://" for each in _STREAMED_SCHEMES)
            raise ValueError(f"{_redacted_scheme(scheme)}:// cannot be read: expected {known}, a path, or /dev/video0")
        try:
            parts = urlsplit(_CREDENTIALS.sub("", text))
            host, port = parts.hostname, parts.port
        except ValueError:  # whose words may quote a part of the URL
            raise ValueError(_NO_HOST) from None
        if not host:
            raise ValueError(_NO_HOST)
        if port and not _CREDENTIALS.search(text) and "@" in parts.path:
            # Otherwise half a password would pass for a host and a port, and be shown.
            raise ValueError("write / in the URL's user or password as %2F")
        where = f"{host}:{port}" if port else host
        return cls(Kind.STREAM, text, f"{scheme.lower()}://{where}/…", host)

    @classmethod
    def _of_path(cls, text: str) -> Address:
        try:
            if text.isdecimal() and not Path(text).exists():
                text = f"/dev/video{text}"
            path = Path(text)
            if _DEVICE.fullmatch(text) or path.is_char_device():
                return cls(Kind.DEVICE, text, text, path.name)
            if path.is_dir():
                return cls(Kind.FOLDER, text, text, path.name or "pictures")
            if path.is_file():
                return cls(Kind.FILE, text, text, path.stem)
        except OSError as error:  # no way into its folder, or a name that no file can have
            raise ValueError(f"cannot read {text}: {error.strerror}") from None
        raise ValueError(f"no file, folder or device {text}: expected one of these, or a URL as in rtsp://HOST/PATH")


class Redaction:
    """Takes the secrets of cameras out of a text, whoever wrote it. Everything that leaves the program goes through."""

    def __init__(self, urls: Iterable[str] = ()) -> None:
        """`urls` are those of all cameras, with their secrets."""
        self._whole: dict[str, str] = {}
        secrets: set[str] = set()
        for url in urls:
            if "://" in url:
                self._whole[url] = _CREDENTIALS.sub(f"{_HIDDEN}@", url).partition("?")[0]
                secrets |= _secrets(url)
        self._secrets = re.compile(
            "|".join(rf"(?<!\w){re.escape(each)}(?!\w)" for each in sorted(secrets, key=len, reverse=True)) or r"(?!)"
        )

    def __call__(self, text: str) -> str:
        """The text with `***` in the place of each secret."""
        for url, shown in self._whole.items():
            text = text.replace(url, shown)
        text = _CREDENTIALS.sub(f"{_HIDDEN}@", text)
        text = _PASSWORDS_IN_URLS.sub(rf"\1{_HIDDEN}", text)
        return self._secrets.sub(_HIDDEN, text)


def _secrets(url: str) -> set[str]:
    """Passwords as they are written and as they are meant; a user's name alone opens nothing, and is often a word."""
    found: set[str] = set()
    if credentials := _CREDENTIALS.search(url):
        found.add(credentials.group().removesuffix("@"))
        found.add(credentials.group().removesuffix("@").partition(":")[2])
    query = _CREDENTIALS.sub("", url).partition("?")[2].partition("#")[0]
    found.update(value for name, value in parse_qsl(query) if _names_secret(name))
    found |= {unquote(each) for each in found}
    return {each for each in found if len(each) >= _SHORTEST_SECRET}


def _names_secret(name: str) -> bool:
    return _PASSWORDS_IN_URLS.fullmatch(f"{name}=x") is not None


def _redacted_scheme(scheme: str) -> str:
    """What stands before ://, if it looks like a scheme and not like a secret that went astray."""
    return scheme if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]{0,9}", scheme) else "this"
