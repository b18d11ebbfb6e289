from emudev_net.testing import compiled_or_plain, jit

__all__ = ["compiled_or_plain", "jit"]
