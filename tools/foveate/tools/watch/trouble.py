"""What goes wrong with a camera."""

from __future__ import annotations

__all__ = ["CameraTrouble"]


class CameraTrouble(Exception):
    """A camera gives no pictures. Its message holds no secrets."""

    def __init__(self, message: str, *, is_frozen: bool = False, is_final: bool = False) -> None:
        """`is_frozen`: it is connected and yet silent; `is_final`: connecting again would change nothing."""
        super().__init__(message)
        self.is_frozen = is_frozen
        self.is_final = is_final
