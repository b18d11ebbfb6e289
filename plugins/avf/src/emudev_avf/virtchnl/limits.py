"""Numbers of this VF that several groups of requests are checked against.

Source: avf.md sections 4.5, 4.7 and 7.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "DEFAULT_PAIRS",
    "HENA_CAPS",
    "LARGE_LUT_SIZE",
    "MAX_ADDRESSES",
    "RSS_KEY_SIZE",
    "RSS_LUT_SIZE",
    "VSI_ID",
]

#: Id of the only VSI, as reported and as requests carry it.
VSI_ID: Final = 1
#: Bytes of the hash key.
RSS_KEY_SIZE: Final = 52
#: Entries of the hash lookup table for up to that many queue pairs; for more there are
#: `LARGE_LUT_SIZE`, so that each queue can have some.
RSS_LUT_SIZE: Final = 64
LARGE_LUT_SIZE: Final = 512
#: Queue pairs that a driver gets without asking, and all that one without LARGE_NUM_QPAIRS can get.
DEFAULT_PAIRS: Final = 16
#: Packet types that can be hashed: bits 31 to 36, 41 to 46, 63. All are after a reset.
HENA_CAPS: Final = 0x8000_7E1F_8000_0000
#: Unicast and multicast addresses together. Drivers need 64 and 255.
MAX_ADDRESSES: Final = 1024
