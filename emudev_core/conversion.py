"""Raw values to typed configuration, and what a configuration class takes, for people.

msgspec does the conversion; this module reads the text of vdev strings by the types that the class
declares (``0x10``, ``yes``, ``off``), finds unknown keys before that, and says in its errors where
the value stands, what was expected and what came.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs
import msgspec

from .config import Config
from .errors import ConfigError
from .vdev import Entry

__all__ = ["Key", "convert", "keys", "read_number", "read_switch"]

_C = TypeVar("_C", bound=Config)

_SWITCH = {
    "yes": True,
    "on": True,
    "true": True,
    "1": True,
    "no": False,
    "off": False,
    "false": False,
    "0": False,
}


def read_switch(text: str) -> bool | None:
    """The truth of ``yes``, ``no``, ``on``, ``off``, ``true``, ``false``, 0 and 1; else None."""
    return _SWITCH.get(text.strip().lower())


def read_number(text: str) -> int | None:
    """The number that a text is, decimal or with ``0x``, ``0o``, ``0b``; else None."""
    cleaned = text.strip()
    for base in (10, 0):
        try:
            return int(cleaned, base)
        except ValueError:
            continue
    return None


def convert(entry: Entry, values: Mapping[str, Any], config: type[_C]) -> _C:
    """Make a configuration of an entry's values.

    Args:
        entry: Where they stand.
        values: Those of the entry's keys that belong to `config`.
        config: The class.

    Raises:
        ConfigError: A value is missing, of the wrong type or out of range.
    """
    raw = dict(values)
    if entry.text:
        fields = {field.encode_name: field.type for field in _fields(config)}
        raw = {key: _read(value, fields[key]) for key, value in raw.items() if key in fields}
    try:
        return msgspec.convert(raw, config)
    except msgspec.ValidationError as exc:
        raise _error(entry, values, config, str(exc)) from exc


def _error(entry: Entry, values: Mapping[str, Any], config: type[Config], text: str) -> ConfigError:
    message, _, path = text.partition(" - at `$")
    key = path.rstrip("`").lstrip(".")
    name = key.split(".")[0].split("[")[0]
    known = {k.name: k for k in keys(config)}
    if message.startswith("Object missing required field"):
        missing = message.split("`")[1]
        described = known[missing].description if missing in known else ""
        return ConfigError(f"the key {missing} is missing", where=entry.where, hint=described)
    if name not in values:
        return ConfigError(_plain(message), where=entry.where)
    expected = known[name].expected if name in known else ""
    came = f"came {values[name]!r}"
    # What the class itself checks (`__post_init__`) explains itself.
    typed = expected and message.startswith(("Expected", "Invalid"))
    shown = f"expected {expected}" if typed else message
    return ConfigError(f"{_plain(shown)}, {came}", where=entry.at(name))


def _plain(message: str) -> str:
    return message[:1].lower() + message[1:].replace("`", "") if message else message


# -- the types that a class declares


def _fields(config: type[Config]) -> tuple[Any, ...]:
    info = msgspec.inspect.type_info(config)
    assert isinstance(info, msgspec.inspect.StructType)
    return info.fields


def _bare(kind: Any) -> Any:
    """The type itself, without the description around it."""
    while isinstance(kind, msgspec.inspect.Metadata):
        kind = kind.type
    return kind


def _read(value: Any, kind: Any) -> Any:
    """Read the text of a value by its declared type; what can't be read stays, and is refused."""
    kind = _bare(kind)
    if isinstance(value, list):
        item = getattr(kind, "item_type", msgspec.inspect.AnyType())
        return [_read(part, item) for part in value]
    if isinstance(kind, msgspec.inspect.UnionType):
        return _read_union(value, kind)
    found: Any = None
    if isinstance(kind, msgspec.inspect.BoolType):
        found = read_switch(value)
    elif isinstance(kind, msgspec.inspect.IntType):
        found = read_number(value)
    elif isinstance(kind, msgspec.inspect.FloatType):
        try:
            found = float(value)
        except ValueError:
            found = None
    elif isinstance(kind, msgspec.inspect.LiteralType | msgspec.inspect.EnumType):
        if value not in _choices(kind):
            found = read_number(value)
    elif isinstance(kind, msgspec.inspect.ListType | msgspec.inspect.VarTupleType):
        found = [_read(value, kind.item_type)]
    return value if found is None else found


def _read_union(value: str, kind: Any) -> Any:
    types = [_bare(one) for one in kind.types]
    texts = (msgspec.inspect.StrType, msgspec.inspect.LiteralType, msgspec.inspect.EnumType)
    for one in sorted(types, key=lambda one: isinstance(one, texts)):
        if isinstance(one, msgspec.inspect.NoneType):
            continue
        found = _read(value, one)
        if found is not value:
            return found
    return value


def _choices(kind: Any) -> list[Any]:
    if isinstance(kind, msgspec.inspect.EnumType):
        return [member.value for member in kind.cls]
    return list(kind.values)


# -- for people


@attrs.frozen
class Key:
    """One key of a configuration class.

    Attributes:
        name: As a user types it.
        type: Its type, for people, such as ``int`` or ``auto|yes|no``.
        range: Its limits, such as ``1 to 16``, or the example that its ``Meta`` gives instead of a
            pattern; empty without.
        unit: Its unit, if the description names one (``extra_json_schema={"unit": ...}``); with
            ``"format": "hex"`` there, its limits and default are written so.
        default: Its default, for people; empty if it must be given.
        required: Whether it must be given.
        description: What it means.
    """

    name: str
    type: str
    range: str
    unit: str
    default: str
    required: bool
    description: str

    @property
    def expected(self) -> str:
        """Type and range, for messages."""
        return f"{self.type} {self.range}".strip()


def keys(config: type[Config]) -> list[Key]:
    """The keys of a configuration class, in the order of declaration."""
    found = []
    for field in _fields(config):
        described: dict[str, Any] = {}
        kind = field.type
        while isinstance(kind, msgspec.inspect.Metadata):
            described = {**(kind.extra_json_schema or {}), **(kind.extra or {}), **described}
            kind = kind.type
        written = hex if described.get("format") == "hex" else str
        found.append(
            Key(
                name=field.encode_name,
                type=_type(kind),
                range=_like(described) or _range(kind, written),
                unit=str(described.get("unit", "")),
                default="" if field.required else _default(field, written),
                required=field.required,
                description=str(described.get("description", "")),
            )
        )
    return found


def _type(kind: Any) -> str:
    kind = _bare(kind)
    inspect = msgspec.inspect
    if isinstance(kind, inspect.LiteralType | inspect.EnumType):
        return "|".join(str(choice) for choice in _choices(kind))
    if isinstance(kind, inspect.UnionType):
        return " or ".join(
            _type(one) for one in kind.types if not isinstance(_bare(one), inspect.NoneType)
        )
    if isinstance(kind, inspect.ListType | inspect.VarTupleType):
        return f"[{_type(kind.item_type)},...]"
    names = {"BoolType": "yes|no", "IntType": "int", "FloatType": "number", "StrType": "text"}
    name = type(kind).__name__
    return names.get(name, name.removesuffix("Type").lower())


def _like(described: dict[str, Any]) -> str:
    examples = described.get("examples")
    return f"like {examples[0]}" if examples else ""


def _range(kind: Any, written: Callable[[int], str] = str) -> str:
    kind = _bare(kind)
    if isinstance(kind, msgspec.inspect.UnionType):
        limits = [_range(one, written) for one in kind.types]
        return next((limit for limit in limits if limit), "")
    low, high = getattr(kind, "ge", None), getattr(kind, "le", None)
    above, below = getattr(kind, "gt", None), getattr(kind, "lt", None)
    if low is not None and high is not None:
        return f"{written(low)} to {written(high)}"
    parts = [(">=", low), (">", above), ("<=", high), ("<", below)]
    text = ", ".join(f"{sign} {limit}" for sign, limit in parts if limit is not None)
    pattern = getattr(kind, "pattern", None)
    least, most = getattr(kind, "min_length", None), getattr(kind, "max_length", None)
    if pattern:
        text = f"like {pattern}"
    elif least is not None or most is not None:
        text = f"of {least or 0} to {most} characters"
        if most is None:
            text = "that is not empty" if least == 1 else f"of at least {least} characters"
    return text


def _default(field: Any, written: Callable[[int], str]) -> str:
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "unset"
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, list | tuple):
        return f"[{','.join(str(item) for item in value)}]"
    return written(value) if isinstance(value, int) else str(value)
