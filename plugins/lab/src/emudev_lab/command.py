"""The command ``emudev lab``: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from emudev_core.errors import ConfigError

from . import script
from .errors import LabError
from .lab import KERNELS, Lab
from .preparation import prepare, qemu_version
from .qemu import KINDS, Nic
from .run import Request, run

__all__ = ["add_arguments", "main"]

_RUN_EXAMPLES = """\
SCRIPT is a file or one of: {scripts}

examples:
  emudev lab run smoke --vdev emu_iavf,path={{sock}},id=0,mac=52:54:00:77:00:02 \\
      --vdev tap_backend,iface={{tap}},avf_emu_id=0
  emudev lab run ping --nic e1000e --kernel backports
  emudev lab run -c 'nic_up; ping -c 3 $HOST_IP' \\
      --server 'my-server --socket {{sock}} --tap {{tap}}'

exit status: 0 if the script succeeded, the guest's kernel reported no trouble and the server ended
well; 1 if not, with the reasons and the folder of the logs on stderr; 2 usage; 130 after Ctrl-C
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emudev lab``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _prepare_arguments(actions.add_parser("prepare", help="make the lab's folder ready (once)"))
    names = ", ".join(name.removesuffix(".sh") for name in script.names())
    _run_arguments(
        actions.add_parser(
            "run",
            help="boot a guest on devices and run a script in it",
            epilog=_RUN_EXAMPLES.format(scripts=names),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )


def main(arguments: argparse.Namespace) -> int:
    """Do what the arguments say.

    Returns:
        The exit status.
    """
    return _prepare(arguments) if arguments.action == "prepare" else _run(arguments)


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Make a Debian tree with QEMU, guest kernels and guest programs in $EMUDEV_LAB or "
        "~/.cache/emudev/lab, with this machine's apt. Needs root and Debian 12 or newer; what is "
        "there already is kept."
    )
    parser.add_argument(
        "--kernel", choices=(*KERNELS, "all"), default="all", help="guest kernels to have"
    )
    parser.add_argument(
        "--dpdk", choices=("yes", "no"), default="no", help="have DPDK's testpmd for guests"
    )
    parser.add_argument("--again", action="store_true", help="make everything anew")


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("script", nargs="?", metavar="SCRIPT", help="guest script")
    add("-c", dest="text", metavar="TEXT", help="the script itself")
    add("--kernel", default="stable", metavar="NAME", help="stable, backports or a version")
    add(
        "--vdev",
        action="append",
        default=[],
        metavar="VDEV",
        help="device or backend for an `emudev run`; {sock}, {tap} and {dir} are filled in",
    )
    add("--server", default="", metavar="CMD", help="any other server, with the same filled in")
    add(
        "--nic",
        action="append",
        default=[],
        metavar="KIND",
        help=f"the guest's NIC: {', '.join(KINDS)}, vfio-user:SOCKET; default: what is served",
    )
    add("--set", action="append", default=[], metavar="K=V", help="variable for the script")
    add("--timeout", type=_positive, metavar="S", help="limit for the script, seconds")
    add("--keep", type=Path, metavar="DIR", help="copy the logs there, whatever happens")
    add("--smp", type=_positive, metavar="N", help="processors of the guest")
    add("--mem", type=_positive, metavar="MIB", help="memory of the guest, MiB")
    add("--accel", choices=("tcg", "kvm"), default="tcg", help="default: tcg, the same everywhere")
    add("--iommu", action="store_true", help="give the guest an IOMMU (VT-d), used by its kernel")
    add(
        "--memory",
        choices=("shared", "private"),
        default="shared",
        help="whether the server can map the guest's memory; default: shared",
    )
    add("--tap-flags", default="", metavar="WORDS", help="for `ip tuntap add`: multi_queue, ...")
    add("--quiet", action="store_true", help="print the script's results (KEY=VALUE) only")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text}")
    return int(text)


def _prepare(arguments: argparse.Namespace) -> int:
    lab = Lab()
    kernels = KERNELS if arguments.kernel == "all" else (arguments.kernel,)

    def say(line: str) -> None:
        sys.stderr.write(f"lab: {line}\n")
        sys.stderr.flush()

    prepare(lab, kernels, dpdk=arguments.dpdk == "yes", again=arguments.again, say=say)
    sys.stdout.write(f"LAB={lab.folder}\nQEMU={qemu_version(lab)}\n")
    for name in kernels:
        sys.stdout.write(f"KERNEL_{name.upper()}={lab.kernel(name).version}\n")
    return 0


def request_of(arguments: argparse.Namespace) -> Request:
    """What ``emudev lab run`` was asked for.

    Raises:
        ConfigError: Arguments that do not go together.
    """
    if (arguments.script is None) == (arguments.text is None):
        raise ConfigError("expected a script, or its text with -c", where="emudev lab run")
    if arguments.vdev and arguments.server:
        raise ConfigError("--vdev and --server exclude each other", where="emudev lab run")
    if not (arguments.vdev or arguments.server or arguments.nic):
        raise ConfigError(
            "no device",
            where="emudev lab run",
            hint="--vdev emu_iavf,path={sock},id=0, --server CMD, or --nic e1000e",
        )
    variables = {}
    for pair in arguments.set:
        key, separator, value = pair.partition("=")
        if not separator or not key.isidentifier():
            raise ConfigError(f"expected NAME=VALUE, got {pair}", where="--set")
        variables[key] = value
    text = arguments.text
    try:
        chosen = script.find(arguments.script) if text is None else script.parse(text, "-c")
        nics = tuple(Nic.parse(nic) for nic in arguments.nic)
    except LabError as error:
        raise ConfigError(str(error), where="emudev lab run") from error
    return Request(
        script=chosen,
        vdevs=tuple(arguments.vdev),
        server=arguments.server,
        nics=nics,
        kernel=arguments.kernel,
        variables=variables,
        smp=arguments.smp,
        mem=arguments.mem,
        timeout=arguments.timeout,
        keep=arguments.keep,
        accel=arguments.accel,
        iommu=arguments.iommu,
        shared=arguments.memory == "shared",
        tap_flags=arguments.tap_flags,
    )


def _run(arguments: argparse.Namespace) -> int:
    request = request_of(arguments)

    def echo(line: str) -> None:
        key, separator, _ = line.partition("=")
        if not arguments.quiet or (separator and key.isidentifier() and key[0].isupper()):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        outcome = run(Lab(), request, echo)
    except KeyboardInterrupt:
        return 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for fault in outcome.faults:
        sys.stderr.write(f"lab: failed: {fault}\n")
    if outcome.logs:
        sys.stderr.write(f"lab: logs are in {outcome.logs}\n")
    return 1 if outcome.faults else 0
