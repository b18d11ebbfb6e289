"""The network kit of emudev: guest memory for kernels, bursts, and what NICs and backends share.

Import the modules by name; importing them compiles nothing and does not need llvmlite.
"""
