"""The host: devices, transports and backends of one process brought together on one loop.

    with Host() as host:
        nic = host.add("emu_iavf,path=/run/avf0.sock,id=0")
        host.add("tap_backend,iface=tap0,avf_emu_id=0")
        host.run()

Adding builds objects and opens nothing. `start` configures every device, offers it to its backends,
and then starts device after device (`emudev_core.sequence` has the order within one); if a step
fails, what was started is stopped again. `close` goes back all the way, whatever happened before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from .blame import culprit
from .client import DeviceClient
from .closing import Closing
from .device import Device
from .errors import ConfigError, EmudevError, LifecycleError, PluginError, TransportError
from .lifecycle import State
from .loop import Loop
from .plan import BackendPlan, DevicePlan, ObserverPlan, Plan, Planner
from .plugins import Plugins, load_plugins
from .registry import Registry
from .signals import StopSignals
from .specs import (
    BackendContext,
    ConnectContext,
    ObserverContext,
    ProviderContext,
    Spec,
    TransportContext,
)
from .vdev import parse_vdev

__all__ = ["Host"]

log = logging.getLogger(__name__)


class Host(Closing):
    """See the module. All methods but `stop` are for one thread, the loop's.

    Args:
        loop: The loop to use, kept by the caller; None makes one that `close` closes.
        plugins: What is installed; None loads it.

    Attributes:
        loop: The loop.
        plugins: The plugins.
        registry: The devices.
    """

    def __init__(self, loop: Loop | None = None, plugins: Plugins | None = None) -> None:
        self.plugins = load_plugins() if plugins is None else plugins
        self._owns_loop = loop is None
        self.loop = Loop() if loop is None else loop
        self.registry = Registry(self.loop)
        self._planner = Planner(self.plugins)
        self._plans: dict[str, DevicePlan] = {}
        self._signals = StopSignals(self.stop)
        self._stopped = False
        self._closed = False
        self.loop.on_error = self._callback_failed

    # -- building

    def add(self, vdev: str) -> Any:
        """Build what a vdev string asks for; opens nothing.

        Args:
            vdev: ``driver,key=value,...``.

        Returns:
            The `Device` of a provider, or the object of a backend.

        Raises:
            ConfigError: A mistake in the string.
            PluginError: The plugin's builder failed.
        """
        entry = parse_vdev(vdev)
        if self._planner.is_device(entry):
            return self._make_device(self._planner.device(entry))
        return self._make_backend(self._planner.backend(entry))

    def observe(self, observer: str) -> object:
        """Build an observer of a device: ``NAME,emu=DEVICE,key=value,...``.

        Raises:
            ConfigError: A mistake in the string.
            PluginError: The plugin's builder failed.
        """
        plan = self._planner.observer(parse_vdev(observer, "--observe"))
        return self._make_observer(plan)

    def build(self, plan: Plan) -> list[object]:
        """Build everything of a plan.

        Returns:
            Its backends, in order.

        Raises:
            PluginError: A plugin's builder failed.
        """
        self._planner.adopt(plan)
        for device in plan.devices:
            self._make_device(device)
        backends = [self._make_backend(backend) for backend in plan.backends]
        for observer in plan.observers:
            self._make_observer(observer)
        return backends

    def _make_device(self, plan: DevicePlan) -> Device:
        device = self.registry.allocate(plan.name, plan.spec.origin)
        try:
            device.config = plan.config
            context = ProviderContext(device, self.loop, self.registry)
            provider = _build(plan.spec, plan.spec.build, plan.config, context)
            device.register(provider, plan.spec.name, plan.spec.origin)
            if plan.transport is not None:
                if hasattr(provider, "emudev_listen"):
                    raise ConfigError(
                        f"{plan.spec.name} listens by itself: it takes no transport, came "
                        f"{plan.transport.name}",
                        where=plan.name,
                    )
                served = TransportContext(device, self.loop)
                serve = plan.transport.serve
                transport = _build(plan.transport, serve, plan.transport_config, served)
                device.register(transport, plan.transport.name, plan.transport.origin)
        except BaseException:
            self._planner.forget(plan.name)
            device.close()
            self.registry.release(device)
            raise
        self._plans[plan.name] = plan
        return device

    def _make_backend(self, plan: BackendPlan) -> object:
        devices = {key: self.registry.get(name) for key, name in plan.devices.items()}
        registered: list[Device] = []
        try:
            for device in devices.values():
                _check_resting(device, plan.name)
            context = BackendContext(plan.name, devices, self.loop)
            backend = _build(plan.spec, plan.spec.build, plan.config, context)
            for device in dict.fromkeys(devices.values()):
                device.register(backend, plan.name, plan.spec.origin)
                registered.append(device)
        except BaseException:
            for device in registered:
                device.unregister(backend)
            self._planner.forget(plan.name)
            raise
        return backend

    def _make_observer(self, plan: ObserverPlan) -> object:
        device = self.registry.get(plan.device)
        context = ObserverContext(device, self.loop)
        observer = _build(plan.spec, plan.spec.build, plan.config, context)
        taken = {member.name for member in device.members}
        name, number = plan.spec.name, 2
        while name in taken:
            name, number = f"{plan.spec.name}_{number}", number + 1
        device.register(observer, name, plan.spec.origin)
        return observer

    # -- running

    def start(self) -> None:
        """Start every device that rests; those that are started already stay so.

        Raises:
            EmudevError: A step failed; what this call started is stopped again.
        """
        resting = [d for d in self.registry if d.state is not State.STARTED]
        for device in resting:
            if device.state is State.ALLOCATED:
                device.configure()
        for device in resting:
            device.offer()
        started: list[Device] = []
        try:
            for device in resting:
                device.start()
                started.append(device)
        except BaseException:
            for device in reversed(started):
                device.stop()
            raise

    def run(self) -> None:
        """Start what is not started, and run until `stop`, SIGTERM or SIGINT."""
        self.handle_signals()
        if any(device.state is not State.STARTED for device in self.registry):
            self.start()
        if not self._stopped:
            self.loop.run()

    def handle_signals(self) -> None:
        """Let SIGTERM and SIGINT end `run`, from now until `close`.

        Also where they were inherited as ignored. Further ones, such as during `close`, change
        nothing. Outside the main thread this does nothing.
        """
        self._signals.install()

    def stop(self) -> None:
        """End `run`, or the next one; from any thread or signal handler."""
        self._stopped = True
        self.loop.stop()

    def _callback_failed(self, error: Exception) -> bool:
        """Put the devices of a plugin that raised in a callback in error, and let the others go on.

        What no plugin raised is a fault of ours: it ends the process with a traceback.
        """
        blamed: list[Device] = []
        for by_package in (False, True):
            blamed = blamed or [
                device
                for device in self.registry
                if culprit(error, device.members, by_package=by_package) is not None
            ]
        for device in blamed:
            device.fail(error)
        return bool(blamed)

    def connect(self, device: Device) -> DeviceClient:
        """Drive a device from this process, over its transport.

        Raises:
            TransportError: It has none, or one without a client.
        """
        plan = self._plans[device.name]
        if plan.transport is None or plan.transport.connect is None:
            name = plan.transport.name if plan.transport else "none"
            raise TransportError(f"{device.name}: its transport ({name}) has no client")
        return plan.transport.connect(plan.transport_config, ConnectContext(device, self.loop))

    def close(self) -> None:
        """Stop, close and release all devices, last one first. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            for device in reversed(list(self.registry)):
                try:
                    device.close()
                    self.registry.release(device)
                except Exception:
                    log.exception("%s could not be closed", device.name)
        finally:
            self.loop.on_error = None
            if self._owns_loop:
                self.loop.close()
            self._signals.restore()


def _build(spec: Spec, builder: Callable[..., Any], config: Any, context: Any) -> Any:
    try:
        return builder(config, context)
    except EmudevError:
        raise
    except Exception as exc:
        raise PluginError(spec.origin, f"the builder of {spec.name}", exc) from exc


def _check_resting(device: Device, name: str) -> None:
    if device.state is State.STARTED:
        raise LifecycleError(f"{device.name} is started: add {name} before")
