"""Where cameras are, and that their secrets stay there."""

from __future__ import annotations

import logging
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.engines.errors import FoveateError
from foveate.tools.watch.address import Address, Kind, Redaction
from foveate.tools.watch.secrecy import secrets_kept

SECRET = "Tr0ub4dor&3"
URLS = [
    f"rtsp://admin:{SECRET}@10.0.0.7:554/stream1?channel=1",
    "rtsp://admin:p%40ss%2Fword@10.0.0.7/stream1",
    "rtsp://admin:p@ss@10.0.0.7/stream1",
    "http://10.0.0.7/video.cgi?user=admin&pwd=hunter2222&size=3",
    "rtsp://10.0.0.7/user=admin_password=hunter3333_channel=1_stream=0.sdp",
    "rtsp://tokenalone@10.0.0.7/stream1",
]
SECRETS = [SECRET, "p%40ss%2Fword", "p@ss/word", "p@ss@", "hunter2222", "hunter3333", "tokenalone"]


@pytest.mark.parametrize("url", URLS)
def test_no_secret_gets_through(url: str) -> None:
    redact = Redaction(URLS)
    for text in (
        f"[Errno 5] Input/output error: '{url}'",
        f"Opening '{url}' for reading\n{url}",
        url.replace("rtsp://", "rtsp://10.0.0.1/redirect?to=rtsp://"),
    ):
        for secret in SECRETS:
            assert secret not in redact(text)


@pytest.mark.parametrize("secret", [SECRET, "p@ss/word", "p%40ss%2Fword", "hunter2222"])
def test_a_secret_alone_is_found_too(secret: str) -> None:
    assert secret not in Redaction(URLS)(f"login failed with {secret}, try again")


def test_urls_of_nobodys_camera_lose_their_credentials_too() -> None:
    said = Redaction()("moved to rtsp://root:pass@192.168.0.2/live?token=abcdef")
    assert "192.168.0.2" in said
    assert "root" not in said
    assert "abcdef" not in said


def test_what_is_no_secret_is_left_alone() -> None:
    text = "cannot open rtsp://10.0.0.7/…: Server returned 404 Not Found: admin, stream1, size=3"
    assert Redaction(URLS)(text) == text


@pytest.mark.parametrize("password", ["half?hidden", "half#hidden", "half&hidden", "[half"])
def test_no_half_of_a_password_gets_through(password: str) -> None:
    url = f"rtsp://admin:{password}@10.0.0.7/stream"
    assert "half" not in Redaction([url])(f"{url}: no such camera")


@given(st.text(st.characters(blacklist_categories=["Cs", "Zs", "Cc"], blacklist_characters="/@:\"'"), min_size=3))
def test_any_password_is_hidden(password: str) -> None:
    url = f"rtsp://someone:{password}@camera.example/x"
    said = Redaction([url])(f"could not open {url} (someone:{password})")
    assert f":{password}" not in said


@pytest.mark.parametrize("url", URLS)
def test_an_address_shows_host_and_port_alone(url: str) -> None:
    address = Address.parse(url)
    assert address.kind is Kind.STREAM
    assert address.target == url
    assert address.host == "10.0.0.7"
    assert address.shown in ("rtsp://10.0.0.7/…", "rtsp://10.0.0.7:554/…", "http://10.0.0.7/…")


def test_half_a_password_does_not_pass_for_a_host() -> None:
    with pytest.raises(ValueError, match="%2F"):
        Address.parse("rtsp://admin:12/34@10.0.0.7/stream1")


def test_paths_are_what_they_are(tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    video.touch()
    assert Address.parse(str(video)).kind is Kind.FILE
    assert Address.parse(str(video)).host == "clip"
    assert Address.parse(str(tmp_path)).kind is Kind.FOLDER
    assert Address.parse("/dev/video3").kind is Kind.DEVICE
    assert Address.parse("3").target == "/dev/video3"


def test_logs_errors_and_faults_are_redacted(capsys: pytest.CaptureFixture[str]) -> None:
    redact = Redaction(URLS)
    with pytest.raises(FoveateError) as caught, secrets_kept(redact):
        raise FoveateError(f"no camera at {URLS[0]}")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    with secrets_kept(redact):
        logging.getLogger("foveate").warning("lost %s", URLS[0])
        with redirect_stderr(StringIO()) as table:
            logging.getLogger("foveate").warning("found %s", URLS[0])
    with pytest.raises(SystemExit, match="1"), secrets_kept(redact):
        raise RuntimeError(URLS[0])
    written = capsys.readouterr().err
    assert "lost rtsp://***@10.0.0.7:554" in written
    assert "found rtsp://***@10.0.0.7:554" in table.getvalue(), "whatever took the place of standard error"
    assert "found" not in written
    assert "RuntimeError: rtsp://***@" in written
    assert SECRET not in written
