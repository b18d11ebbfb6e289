"""A memif 2.0 shared-memory packet interface, server or client, as an emulated device.

`plugin` registers the provider ``emu_memif``; `wire` has the messages, `protocol` the two ends of
the control channel without I/O, `server` and `client` their sockets, `regions` the checks and
mappings of shared memory, `device` brings them together with the data path in `rings`.
"""
