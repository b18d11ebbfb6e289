"""The archive writer, against its format's description (the foreign reader is a guest's kernel)."""

from emudev_lab.cpio import Archive


def test_one_small_file_has_the_bytes_that_the_format_asks_for():
    archive = Archive()
    archive.file("a", b"hi", mode=0o644)
    # Worked out by hand from the kernel's buffer-format.rst: 13 fields of 8 digits after the magic.
    # They are: ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor,
    # rdevminor, namesize, check.
    entry = (
        b"070701"
        b"00000001000081A4000000000000000000000001000000000000000200000000"
        b"0000000000000000000000000000000200000000"
        b"a\0hi\0\0"
    )
    end = (
        b"070701" + b"00000000" * 4 + b"00000001" + b"00000000" * 6 + b"0000000B" + b"00000000"
        b"TRAILER!!!\0\0\0\0"
    )
    assert archive.build() == entry + end


def test_every_entry_starts_at_a_multiple_of_four():
    archive = Archive()
    for length in range(1, 9):
        archive.file("n" * length, b"x" * length)
    data = archive.build()
    assert len(data) % 4 == 0
    starts = [index for index in range(len(data)) if data.startswith(b"070701", index)]
    assert len(starts) == 9
    assert all(start % 4 == 0 for start in starts)


def test_parents_come_before_their_children_and_once():
    archive = Archive()
    archive.file("/a/b/c", b"")
    archive.folder("a/b")
    archive.link("a/d", "b/c")
    assert _names(archive.build()) == ["a", "a/b", "a/b/c", "a/d", "TRAILER!!!"]


def test_the_first_entry_of_a_name_is_kept():
    archive = Archive()
    archive.file("x", b"first")
    archive.file("x", b"second")
    data = archive.build()
    assert b"first" in data
    assert b"second" not in data


def test_equal_contents_give_equal_bytes():
    def build() -> bytes:
        archive = Archive()
        archive.device("dev/console", 5, 1)
        archive.link("bin", "usr/bin")
        return archive.build()

    assert build() == build()


def _names(data: bytes) -> list[str]:
    """Names of the entries, read back the long way round."""
    names, offset = [], 0
    while offset < len(data):
        size = int(data[offset + 54 : offset + 62], 16)
        length = int(data[offset + 94 : offset + 102], 16)
        names.append(data[offset + 110 : offset + 110 + length - 1].decode())
        offset += (110 + length + 3) // 4 * 4 + (size + 3) // 4 * 4
    return names
