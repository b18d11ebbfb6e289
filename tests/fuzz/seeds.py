"""Where fuzzing starts: for each target, inputs that take it through what a good peer does.

python tests/fuzz/seeds.py         writes them into the corpus
"""

from __future__ import annotations

import struct
from pathlib import Path

__all__ = ["CORPUS", "SEEDS"]

CORPUS = Path(__file__).parent / "corpus"


def _counted(data: bytes) -> bytes:
    """As `targets.Steps.counted` reads it; padded with zeroes if it is long."""
    if len(data) < 224:
        return bytes([len(data)]) + data
    units = -(-(len(data) - 224) // 80)
    return bytes([224 + units]) + data.ljust(224 + 80 * units, b"\0")


def _request(opcode: int, payload: bytes = b"") -> bytes:
    return bytes([opcode]) + _counted(payload)


def _ring(rx: int, tx: int) -> bytes:
    return struct.pack("<HHII", 1, 0, rx, tx)


def _queues() -> bytes:
    home = 0x1_0000_0000
    out = struct.pack("<HHI", 1, 1, 0)
    out += struct.pack("<HHHHQQ", 1, 0, 32, 0, home + 0x44000, 0)
    rx = (1, 0, 32, 0, 0, 2048, 9728, 0, 0, 0, 0, home + 0x45000, 0, 0)
    return out + struct.pack("<HHIHHIIBBBBQiI", *rx)


_MAC = bytes.fromhex("525400770002")
_VLAN = struct.pack("<HHHHHH", 1, 1, 0, 0, 5, 0x8100)

_VIRTCHNL = {
    "resources": _request(1, struct.pack("<II", 1, 1)) + _request(3, b"\xff\xff\xff\xff"),
    "queues": _request(1, struct.pack("<II", 1, 1))
    + _request(3, struct.pack("<I", 0x1ABD8CF9))
    + _request(6, _queues())
    + _request(7, struct.pack("<HHHHHHH", 1, 1, 1, 1, 1, 0, 0))
    + _request(8, _ring(1, 1))
    + _request(9, _ring(1, 1)),
    "open": _request(15, _ring(0, 0)) + _request(9, _ring(1, 1)),
    "reset": _request(3, b"\xff\xff\xff\xff") + _request(2) + _request(29, b"\1\0"),
    "addresses": _request(3, b"\xff\xff\xff\xff")
    + _request(10, struct.pack("<HH", 1, 1) + _MAC + b"\1\0")
    + _request(11, struct.pack("<HH", 1, 1) + _MAC + b"\1\0")
    + _request(14, struct.pack("<HH", 1, 3)),
    "vlans": _request(3, b"\xff\xff\xff\xff")
    + _request(51)
    + _request(52, struct.pack("<HH", 1, 1) + bytes(4) + _VLAN + bytes(40))
    + _request(54, struct.pack("<IHH", 0x8100, 1, 0) + bytes(16))
    + _request(12, struct.pack("<HHH", 1, 1, 5)),
    "hash": _request(3, b"\xff\xff\xff\xff")
    + _request(23, struct.pack("<HH", 1, 52) + bytes(range(52)))
    + _request(24, struct.pack("<HH", 1, 64) + bytes(64))
    + _request(25)
    + _request(26, struct.pack("<Q", 1 << 33))
    + _request(18, struct.pack("<HH", 1, 1)),
    "rules": _request(3, b"\xff\xff\xff\xff")
    + _request(45, struct.pack("<ii", 0, 2) + struct.pack("<iI", 9, 1) + bytes(600))
    + _request(47, struct.pack("<HHI", 1, 0, 0) + bytes(700))
    + _request(48, struct.pack("<HHI", 1, 0, 0)),
    "clock": _request(3, b"\xff\xff\xff\xff") + _request(60, struct.pack("<I", 2)) + _request(61),
    "unknown": b"\xff\xff\xff\0\0" + _counted(b"anything"),
}

_DEVICE = {
    "mailbox": bytes([4, 5, 1, 8]) + struct.pack("<II", 1, 1) + bytes([6, 15]),
    "resets": bytes([4, 6, 12, 15, 0x1C, 4, 0x0B, 0x1B, 0x2B, 15]),
    "memory": bytes([4, 6, 0x03, 0x43, 0x09, 1, 0, 0x53, 0x33]),
    "registers": bytes([0]) + struct.pack("<HI", 0x5C00, 0x19) + bytes([1]) + b"\x00\x88" + b"\x0e",
    "descriptors": bytes([4, 6, 8, 0])
    + struct.pack("<QQ", 0x1_0004_6000, 7 << 4 | 64 << 34)
    + bytes(16)
    + bytes([9, 1, 0, 15]),
    "frames": bytes([4, 6, 0x0A, 60]) + b"\xff" * 60 + bytes([0x1E, 0x0D, 0x4D]),
    "configuration": bytes([2]) + struct.pack("<HI", 0xA8, 0x8000) + bytes([2, 4, 0, 6, 0, 0, 0]),
}


def _data(length: int, form: int = 0x38, offset: int = 0) -> bytes:
    return bytes([form, offset]) + struct.pack("<Q", length | offset << 16)


_DESCRIPTORS = {
    "one": bytes([0]) + _data(60),
    "several": bytes([2]) + _data(100, 0x48) + _data(200, 0x48) + _data(300),
    "edges": bytes([1]) + _data(64, 0x39) + _data(64, 0x3A) + bytes([0]) + _data(64, 0x3C),
    "segments": bytes([1])
    + bytes([0x10, 0])
    + struct.pack("<Q", 1 | 1 << 4 | 2000 << 30 | 500 << 50)
    + _data(2054),
    "buffers": bytes([6, 0, 0, 1, 31, 7, 60]) + b"\xff" * 60,
    "frame": bytes([5, 0, 0, 60])
    + b"\xff" * 6
    + _MAC
    + bytes.fromhex("08004500002e0000000040110000c0000201c0000202000900090014")
    + bytes(20)
    + bytes([0])
    + _data(60),
}


def _message(command: int, payload: bytes = b"", form: int = 0) -> bytes:
    return bytes([command, form]) + _counted(payload)


_VFIO_USER = {
    "information": _message(1, struct.pack("<HH", 0, 1) + b'{"capabilities":{"max_msg_fds":8}}\0')
    + _message(4, struct.pack("<IIII", 16, 0, 0, 0))
    + _message(5, struct.pack("<IIIIQQ", 32, 0, 1, 0, 0, 0))
    + _message(7, struct.pack("<IIII", 16, 0, 0, 0)),
    "accesses": _message(1, struct.pack("<HH", 0, 1))
    + _message(9, struct.pack("<QII", 16, 0, 4))
    + _message(10, struct.pack("<QII", 0x40, 1, 4) + b"\1\0\0\0")
    + _message(9, struct.pack("<QII", 0, 0, 600))
    + _message(15, struct.pack("<IIQIIQ", 40, 1, 0, 0, 8, 1)),
    "memory": _message(1, struct.pack("<HH", 0, 1))
    + _message(2, struct.pack("<IIQQQ", 32, 3, 0, 0x10000, 0x4000), 5)
    + _message(2, struct.pack("<IIQQQ", 32, 3, 0, 0x20000, 0x4000))
    + _message(3, struct.pack("<IIQQ", 24, 0, 0x10000, 0x4000)),
    "interrupts": _message(1, struct.pack("<HH", 0, 1))
    + _message(8, struct.pack("<IIIII", 20, 0x24, 0, 0, 1), 4)
    + _message(8, struct.pack("<IIIII", 20, 0x21, 0, 0, 0))
    + _message(13),
}

_HELLO = struct.pack("<32sHHHHHB", b"vpp", 0x0200, 0x0200, 255, 1, 1, 14)
_INIT = struct.pack("<HIB24s32s", 0x0200, 0, 0, b"", b"dpdk")


def _record(kind: int, body: bytes, form: int = 0) -> bytes:
    return bytes([kind, form]) + _counted(body)


_RINGS = b"".join(
    _record(5, struct.pack("<HHHIBH", way, 0, 0, way * 0x400, 4, 0), 4) for way in (0, 1)
)
_MEMIF = {
    "server": b"\0"
    + _record(3, _INIT)
    + _record(4, struct.pack("<HQ", 0, 0x4000), 5)
    + _RINGS
    + _record(6, b"memif0".ljust(32, b"\0"))
    + _record(8, struct.pack("<I96s", 0, b"enough")),
    "client": b"\1" + _record(2, _HELLO) + _record(1, b"") + _record(7, b"memif0"),
    "refused": b"\1" + _record(2, _HELLO) + _record(8, struct.pack("<I96s", 0, b"no")),
}

_DEVICE_NAME = b'"device":"exerciser_emudev_0"'


def _line(op: bytes, rest: bytes = b"", number: bytes = b"1") -> bytes:
    return b'{"op":"' + op + b'","id":' + number + (b"," + rest if rest else b"") + b"}\n"


_CONTROL = {
    "look": _line(b"list")
    + _line(b"show", _DEVICE_NAME + b',"sections":["device"]')
    + _line(b"stats", b'"device":""', b"2"),
    "attributes": _line(b"get-attributes", _DEVICE_NAME)
    + _line(b"set-attribute", _DEVICE_NAME + b',"name":"link","value":true'),
    "change": _line(b"set-link", _DEVICE_NAME + b',"state":"up","speed":1000')
    + _line(b"update", _DEVICE_NAME + b',"mac":"52:54:00:12:34:56","mtu":1500,"reset":true')
    + _line(b"reset", _DEVICE_NAME + b',"silent":true'),
    "follow": _line(b"follow", _DEVICE_NAME),
    "wrong": b"\n{}\n[1]\nnull\n" + _line(b"nothing") + b'{"id":9007199254740993}\n{"op":',
}

#: Inputs by target and name.
SEEDS: dict[str, dict[str, bytes]] = {
    "virtchnl": _VIRTCHNL,
    "device": _DEVICE,
    "descriptors": _DESCRIPTORS,
    "vfio_user": _VFIO_USER,
    "memif": _MEMIF,
    "control": _CONTROL,
}


def write(corpus: Path = CORPUS) -> None:
    """Write all seeds into a corpus."""
    for target, seeds in SEEDS.items():
        folder = corpus / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (folder / f"seed-{name}").write_bytes(data)


if __name__ == "__main__":
    write()
