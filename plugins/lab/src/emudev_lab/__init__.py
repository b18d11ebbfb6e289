"""Stock Linux guests under QEMU on emulated devices: the `emudev lab` command and pytest fixtures.

The parts, from the bottom up: `lab` (the cache folder and its programs), `preparation` (which
fills it, with `steps` and `debian`), `cpio`, `kernel_modules` and `initramfs` (what a guest boots),
`process` and `namespace` (what runs on the host), `host` (the host's side of one run), `qemu` and
`guest` (the guest's side), `script` and `kernel_log` (what a script asks for, and what the guest's
kernel said), `run` (one run from end to end), `command`, `pytest_plugin` and `fixtures` (how people
reach it).
"""
