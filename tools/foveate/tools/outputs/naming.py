"""Names of cameras in names of files and topics."""

from __future__ import annotations

import re

__all__ = ["name_part"]

_MEANINGFUL = re.compile(r"^[.$]|[\x00-\x1f\x7f%/\\+#:*?\"<>|]")


def name_part(camera: str) -> str:
    """The camera's name as one part of a path or of an MQTT topic.

    What file systems or MQTT give a meaning is percent-encoded, so no two cameras share a name and none leads out of
    its folder.
    """
    return _MEANINGFUL.sub(lambda found: f"%{ord(found[0]):02X}", camera)
