"""A web that needs no network: https requests answered from a table."""

from __future__ import annotations

import email.message
import http.client
import urllib.request
import urllib.response
from typing import IO

__all__ = ["Web"]


class Web(urllib.request.HTTPSHandler):
    """Answers https requests from a table, under the real redirect and error handling."""

    def __init__(self, answers: dict[str, tuple[int, dict[str, str], IO[bytes]] | Exception]) -> None:
        super().__init__()
        self.answers = answers
        self.asked: list[urllib.request.Request] = []

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        self.asked.append(req)
        answer = self.answers[req.full_url]
        if isinstance(answer, Exception):
            raise answer
        status, headers, body = answer
        message = email.message.Message()
        for name, value in headers.items():
            message[name] = value
        response = urllib.response.addinfourl(body, message, req.full_url, status)
        response.msg = http.client.responses[status]  # type: ignore[attr-defined]
        return response  # type: ignore[return-value]
