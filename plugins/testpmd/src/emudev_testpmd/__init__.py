"""The command ``emudev testpmd``: forwards packets between ports as DPDK's testpmd does."""
