"""What tests and measurements of the AVF device are built with.

`ports` has queues driven without a device, `requests` a VF behind its mailbox, `mailbox` a driver's
end of that, `machines` a whole device; `frames` and `flows` make what is received.
"""

from .ports import Guarded, Guest

__all__ = ["Guarded", "Guest"]
