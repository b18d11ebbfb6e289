"""virtchnl: what a guest's driver and the PF side say to each other through the mailbox.

`opcodes` has the numbers, `messages` the wire structs, `dispatch` the way from a request to its one
reply; `base`, `queues`, `filters`, `vlan`, `rss` and `ptp` answer the requests of their group.
"""
