"""A guest without a virtual machine: drives the device the way Linux's iavf driver does.

`netdev.AvfDriver` probes, opens, resets and closes the function; `adminq` is its mailbox, `rings`
its transmit and receive rings, `load` compiled rings for traffic. It sees the device through the
PCI kit's guest's view only, so it works over a socket and inside one process alike. It is the demo,
the quick tests and the load generator; the stock Linux driver in a guest is the witness that
counts.
"""
