"""What a user asks for: vdev strings and TOML tables, as entries with keys and raw values.

A vdev string is DPDK's: ``driver,key=value,...``. A value in brackets is a list (``[a,b]``). In
TOML the same keys stand in ``[[vdev]]`` and ``[[observe]]`` tables, the driver under ``driver``.
Both end as the same typed configuration (`emudev_core.conversion`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from .errors import ConfigError

__all__ = ["Entry", "parse_toml", "parse_vdev"]


@attrs.frozen
class Entry:
    """One thing that a user asks for.

    Attributes:
        driver: Name of a provider, backend or observer.
        values: Raw values by key.
        where: Where it stands, for messages, such as ``--vdev emu_iavf`` or ``$.vdev[0]``.
        text: Whether the values are text that is still to be read (vdev strings).
    """

    driver: str
    values: Mapping[str, Any]
    where: str
    text: bool = True

    def at(self, key: str) -> str:
        """Where a key of it stands, for messages."""
        return f"{self.where}: {key}" if self.text else f"{self.where}.{key}"


def parse_vdev(text: str, option: str = "--vdev") -> Entry:
    """Read ``driver,key=value,...``.

    Args:
        text: The string.
        option: How it was given, for messages.

    Raises:
        ConfigError: It does not have that form.
    """
    driver, *pairs = _split(text)
    driver = driver.strip()
    where = f"{option} {driver}"
    if not driver or "=" in driver:
        raise ConfigError(f"expected driver,key=value,..., came {text!r}", where=option)
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"expected key=value, came {pair!r}", where=where)
        if key in values:
            raise ConfigError("the key is given twice", where=f"{where}: {key}")
        values[key] = _list(value) if value.startswith("[") and value.endswith("]") else value
    return Entry(driver, values, where)


def _split(text: str) -> list[str]:
    """Split at the commas that are not inside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]" and depth > 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _list(text: str) -> list[str]:
    inner = text[1:-1].strip()
    return [item.strip() for item in inner.split(",")] if inner else []


def parse_toml(path: str | Path) -> tuple[list[Entry], list[Entry]]:
    """Read a configuration file.

    Returns:
        The entries of its ``[[vdev]]`` tables and those of its ``[[observe]]`` tables.

    Raises:
        ConfigError: It can't be read, is no TOML, or has other tables.
    """
    import tomllib

    name = str(path)
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"can't be read: {exc.strerror}", where=name) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"no valid TOML: {exc}", where=name) from exc
    for key in document:
        if key not in ("vdev", "observe"):
            from .names import hint

            near = hint(key, ("vdev", "observe"))
            raise ConfigError("unknown table", where=f"{name}: $.{key}", hint=near)
    return _tables(document, "vdev", name), _tables(document, "observe", name)


def _tables(document: Mapping[str, Any], kind: str, name: str) -> list[Entry]:
    tables = document.get(kind, [])
    if not isinstance(tables, list):
        raise ConfigError(f"expected an array of tables, [[{kind}]]", where=f"{name}: $.{kind}")
    entries = []
    for number, table in enumerate(tables):
        where = f"{name}: $.{kind}[{number}]"
        if not isinstance(table, dict):
            raise ConfigError(f"expected a table, came {table!r}", where=where)
        values = dict(table)
        driver = values.pop("driver", None)
        if not isinstance(driver, str):
            raise ConfigError('expected driver = "NAME"', where=f"{where}.driver")
        entries.append(Entry(driver, values, where, text=False))
    return entries
