"""Kit for devices and backends that move packets.

`jit` compiles kernels, `primitives` are what they are made of, `memory` reaches guest memory, `burst` is
the table in which packets are handed on, `flow` moves them from a source to a sink.
"""
