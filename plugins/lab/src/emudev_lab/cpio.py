"""Archives for initramfs images: cpio's "newc" format, written in memory."""

from __future__ import annotations

import posixpath
import stat
from typing import Final

__all__ = ["Archive"]

_MAGIC: Final = b"070701"
_END: Final = "TRAILER!!!"


class Archive:
    """A "newc" archive; an entry that is there already is kept, parents are made as needed.

    Everything belongs to root and is dated 1970, so equal contents give equal bytes.
    Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._names: set[str] = set()

    def folder(self, path: str) -> None:
        """Add a folder."""
        self._add(path, stat.S_IFDIR | 0o755)

    def file(self, path: str, content: bytes | str, mode: int = 0o755) -> None:
        """Add a file with these permission bits; a str is stored as UTF-8."""
        data = content.encode() if isinstance(content, str) else content
        self._add(path, stat.S_IFREG | mode, data)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device."""
        self._add(path, stat.S_IFCHR | mode, device=(major, minor))

    def build(self) -> bytes:
        """The finished archive."""
        return b"".join([*self._parts, _record(0, _END, 0)])

    def _add(
        self, path: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        name = path.strip("/")
        if name in self._names:
            return
        if parent := posixpath.dirname(name):
            self.folder(parent)
        self._names.add(name)
        self._parts.append(_record(len(self._names), name, mode, data, device))


def _record(
    inode: int, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
) -> bytes:
    """One entry: 110 bytes of hexadecimal header, name and data, each padded to four bytes."""
    path = name.encode() + b"\0"
    # inode, mode, uid, gid, links, time, size, device it is on, device it is, name's size, check
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
    head = _MAGIC + b"".join(b"%08X" % field for field in fields) + path
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
