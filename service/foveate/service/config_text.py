"""The settings in force as a TOML file that says what each one means."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from foveate.service.config import ServiceConfig

__all__ = ["config_text"]


def config_text(config: ServiceConfig) -> str:
    """A commented TOML file that `load_config` reads back to the same settings. None of them is a secret."""
    return "\n".join(_lines(config, ())).strip() + "\n"


def _lines(section: BaseModel, path: tuple[str, ...]) -> Iterator[str]:
    tables: list[tuple[str, tuple[str, ...], BaseModel]] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            tables.append(("[{}]", (*path, name), value))
        elif isinstance(value, dict):
            tables.extend(("[{}]", (*path, name, key), item) for key, item in value.items())
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            tables.extend(("[[{}]]", (*path, name), item) for item in value)
        else:
            yield from (f"# {line}" for line in textwrap.wrap(field.description or "", 110))
            yield f"{name} = {_value(value)}" if value is not None else f"# {name} ="
            yield ""
    for heading, table, value in tables:
        yield heading.format(".".join(_key(part) for part in table))
        yield from _lines(value, table)


def _key(name: str) -> str:
    plain = name.replace("_", "").replace("-", "").isalnum() and name.isascii()
    return name if plain else _value(name)


def _value(value: Any) -> str:
    """A scalar as TOML, which writes strings, numbers and booleans as JSON does."""
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
