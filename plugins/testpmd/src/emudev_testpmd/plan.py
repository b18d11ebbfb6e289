"""Who is to forward what: the layout that settings and ports come to.

Which queue forwards to which is `topology`; here it meets the ports, the processors, and whether
kernels are compiled.
"""

from __future__ import annotations

from collections.abc import Iterable

from emudev_core.errors import ConfigError
from emudev_net.jit import jit_wanted

from .options import Options
from .ports import PortTable
from .records import Core, ForwardError, Layout
from .topology import deal, gather, is_odd_pairing, streams_of

__all__ = ["check_queues", "plan_layout"]


def check_queues(options: Options) -> None:
    """See that there are the queues that the mode needs.

    Raises:
        ForwardError: There are not; in testpmd's words.
    """
    mode = options.forward_mode
    if mode == "rxonly" and not options.rxq:
        raise ForwardError("rxq are 0, cannot use rxonly fwd mode")
    if mode == "txonly" and not options.txq:
        raise ForwardError("txq are 0, cannot use txonly fwd mode")
    if mode not in ("rxonly", "txonly") and not (options.rxq and options.txq):
        raise ForwardError(f"Either rxq or txq are 0, cannot use {mode} fwd mode")


def plan_layout(options: Options, ports: PortTable) -> Layout:
    """Who forwards what, if it were started now.

    Args:
        options: The settings.
        ports: All ports; the settings say which of them forward.

    Raises:
        ConfigError: The settings name a port that is not there, leave none, or have fewer CPUs than
            threads.
    """
    chosen = options.forwarding(ports)
    if not chosen:
        raise ConfigError("expected at least one port, came none", hint="--vdev net_avfbe,...")
    dealt = deal(streams_of(options, chosen), options, len(chosen))
    serial = [n for n in chosen if not ports[n].describe().parallel]
    compiled = jit_wanted()
    joined = gather(dealt, serial)
    if not compiled:
        joined = [[stream for streams in joined for stream in streams]]
    cpus = options.cpus if compiled else ()
    if cpus and len(cpus) < len(joined):
        raise ConfigError(
            f"expected a CPU for each of {len(joined)} threads, came {len(cpus)}", where="cpus"
        )
    cores = tuple(
        Core(i, cpus[i] if cpus else None, tuple(streams)) for i, streams in enumerate(joined)
    )
    threads = compiled and (len(cores) > 1 or bool(cpus) or _wants_thread(options, ports, chosen))
    lonely = is_odd_pairing(options, chosen)
    return Layout(options.forward_mode, chosen, cores, threads, lonely)


def _wants_thread(options: Options, ports: PortTable, chosen: Iterable[int]) -> bool:
    """Whether even one core is better a thread: it polls, or peers wake it without the loop."""
    started = (ports[n] for n in chosen if ports.is_started(n))
    return not options.interrupt or any(
        port.rx_fd(queue) >= 0 for port in started for queue in range(port.rx_queues)
    )
