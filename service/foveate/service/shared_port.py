"""A port that several processes of one service listen on, and no one else."""

from __future__ import annotations

import socket

from foveate.engines.errors import ConfigError

__all__ = ["SharedPort"]


class SharedPort:
    """Holds a port without listening on it: connections go to the processes that do.

    It is taken like any port, so that one that somebody else has is an error; only then is it opened to sockets that
    ask to share it, which the kernel allows to processes of the same user.
    """

    def __init__(self, listen: str) -> None:
        """Take HOST:PORT; port 0 takes a free one. Raises: ConfigError."""
        host, _, port = listen.rpartition(":")
        try:
            family, kind, _, _, address = socket.getaddrinfo(
                host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._socket = socket.socket(family, kind)
            try:
                self._socket.bind(address)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            except OSError:
                self._socket.close()
                raise
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot listen on {listen}: expected HOST:PORT that is free here, or unix:PATH; "
                "another server may be running, port 0 takes any free one"
            ) from error
        self.address = f"{host}:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        self._socket.close()
