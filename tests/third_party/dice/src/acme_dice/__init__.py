"""A dice on the PCI bus, and an observer that counts register reads."""
