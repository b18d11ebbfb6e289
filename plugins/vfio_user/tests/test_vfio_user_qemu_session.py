"""A recorded session of a real QEMU, replayed: every command is answered, in order, in full."""

from __future__ import annotations

import os
import struct
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emudev_core.regions import ResetKind

GOLDEN = Path(__file__).parent / "golden" / "qemu-11.1.3-session.toml"


def test_a_whole_guest_boot_of_qemu_is_answered_as_qemu_needs_it(
    bench: Any, memfd: Callable[[int], int], eventfds: Callable[[int], list[int]]
) -> None:
    receives = tomllib.loads(GOLDEN.read_text())["receive"]
    memory = memfd(4 << 30)
    signal = eventfds(1)
    raw = bench.raw(greet=False)
    bench.turn()
    descriptors = len(os.listdir("/proc/self/fd"))
    sent = []
    answered = []
    for receive in receives:
        messages = [bytes.fromhex(m) for m in receive["messages"]]
        last = struct.unpack_from("<HH", messages[-1])[1]
        fds = {2: [memory], 8: signal}.get(last) if receive["descriptors"] else None
        if len(messages) > 1:
            raw.send(b"".join(messages[:-1]))
        raw.send(messages[-1], fds)
        sent += [struct.unpack_from("<HHIII", m) for m in messages]
        answered += raw.replies(4)
    assert len(sent) == 248
    wanted = [(msg_id, command, 1, 0) for msg_id, command, _, flags, _ in sent if not flags]
    assert [(r[0], r[1], r[3], r[4]) for r in answered] == wanted
    # QEMU sizes its buffers by these. Source: vfio-user specification, each command's reply.
    by_command: dict[int, set[int]] = {}
    for reply in answered:
        by_command.setdefault(reply[1], set()).add(reply[2])
    assert by_command[2] == {16}
    assert by_command[3] == {40}
    assert by_command[4] == {32}
    assert by_command[5] == {48}
    assert by_command[7] == {32}
    assert by_command[8] == {16}
    assert by_command[10] == {32}
    assert by_command[13] == {16}
    assert by_command[9] == {33, 34, 36, 32 + 256}
    assert answered[0][2] <= 214
    raw.close()
    bench.turn()
    assert bench.model.calls[-2:] == [("reset", ResetKind.CLIENT_GONE), ("detached",)]
    assert bench.model.table.regions == ()
    assert len(os.listdir("/proc/self/fd")) == descriptors - 2  # without both ends of the socket
