"""Joins an emulated NIC to a TAP interface of the Linux kernel."""
