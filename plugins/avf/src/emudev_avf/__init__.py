"""An emulated Intel Adaptive Virtual Function NIC, and a reference driver for it.

`plugin` registers the provider ``emu_iavf``; `device` is the PCI function, `vf` the virtual
function behind it, `mailbox` and `virtchnl` are how the guest's driver talks to it, `rings` is the
data plane, `driver` the reference driver.
"""
