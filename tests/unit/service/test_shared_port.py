"""One port for several processes of a service, and for nobody else."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from foveate.engines.errors import ConfigError
from foveate.service.shared_port import SharedPort


def listening(address: str, *, share: bool) -> socket.socket:
    host, _, port = address.rpartition(":")
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(share))
    try:
        made.bind((host, int(port)))
    except OSError:
        made.close()
        raise
    made.listen()
    return made


def test_processes_that_share_it_can_listen_and_others_cannot() -> None:
    with closing(SharedPort("127.0.0.1:0")) as port:
        with listening(port.address, share=True), listening(port.address, share=True):
            pass
        with pytest.raises(OSError, match="in use"):
            listening(port.address, share=False)


@pytest.mark.parametrize("share", [False, True])
def test_a_port_that_somebody_else_has_is_an_error_even_if_they_would_share_it(share: bool) -> None:
    with listening("127.0.0.1:0", share=share) as other, pytest.raises(ConfigError, match="another server"):
        SharedPort(f"127.0.0.1:{other.getsockname()[1]}")


@pytest.mark.parametrize("listen", ["127.0.0.1", "127.0.0.1:http", "no.such.host.invalid:0"])
def test_what_is_no_address_is_said(listen: str) -> None:
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        SharedPort(listen)


def test_an_ipv6_address_keeps_its_brackets() -> None:
    with closing(SharedPort("[::1]:0")) as port:
        assert port.address.startswith("[::1]:")
        assert not port.address.endswith(":0")
