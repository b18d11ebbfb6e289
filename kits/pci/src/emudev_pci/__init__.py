"""A kit for PCI devices: declare registers, write handlers, and the rest is there.

- `registers`, `register_file`: register maps and the values behind them;
- `config_space`, `capabilities`, `bars`: configuration space;
- `interrupts`: MSI-X, MSI and INTx;
- `function`: `PciFunction`, the base of a device;
- `guest`: `GuestFunction`, the view from the other side; `testing`: fixtures on it.
"""
