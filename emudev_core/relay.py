"""The relay of one device: its plugins' hook implementations, and how a call reaches them.

Each device has a pluggy manager of its own with the specifications of `DEVICE_HOOKS`. The relay
adds to it what a device needs:

- *binding*: a one-answer hook with one implementation and no wrapper is called directly, without
  pluggy between (`function`); bindings change when a plugin comes or goes;
- *guarding*: an announced hook reaches every implementation, in the order of registration, each
  inside a guard that names the plugin at fault (`announce`);
- *tracing*: with ``EMUDEV_TRACE_HOOKS=1`` nothing is bound, and each call is printed on stderr.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from types import ModuleType
from typing import Any, Final

import attrs
import pluggy

from .errors import DeviceError, EmudevError, PluginError
from .hooks import NAME
from .names import hint

__all__ = ["DEVICE_HOOKS", "Failure", "Member", "Relay", "report", "specifications"]

log = logging.getLogger(__name__)

#: The modules under `emudev_core.hooks` whose specifications a device's relay carries.
DEVICE_HOOKS: Final = ("lifecycle", "provider", "device", "transport", "backend")

_TRACE: Final = "EMUDEV_TRACE_HOOKS"


class _Manager(pluggy.PluginManager):
    """pluggy's manager; reading the implementations of an object does not run its properties."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        static = inspect.getattr_static(plugin, name, None)
        if isinstance(static, property | functools.cached_property):
            return None
        return super().parse_hookimpl_opts(plugin, name)


@functools.cache
def specifications() -> tuple[ModuleType, ...]:
    """The modules with a device's hook specifications."""
    return tuple(importlib.import_module(f"emudev_core.hooks.{name}") for name in DEVICE_HOOKS)


@attrs.frozen(eq=False)
class Member:
    """A plugin object in a relay.

    Attributes:
        plugin: The object with the implementations.
        name: Unique within the relay, such as ``provider`` or ``tap_backend_0``.
        origin: Distribution and version that it comes from, or its class where nobody said.
    """

    plugin: object
    name: str
    origin: str

    def __str__(self) -> str:
        return f"{self.name} ({self.origin})"


@attrs.frozen(eq=False)
class Failure:
    """What one implementation of an announced hook raised.

    Attributes:
        member: Whose implementation it was.
        error: The error to show: the exception itself if it is an `EmudevError`, else a
            `PluginError` that names the plugin, caused by it.
    """

    member: Member
    error: EmudevError


class Relay:
    """See the module. For the loop's thread.

    Args:
        owner: Name of the device, for messages.
        changed: Called after a plugin came or went.
    """

    def __init__(self, owner: str, changed: Callable[[], None] = lambda: None) -> None:
        self.owner = owner
        self.tracing = os.environ.get(_TRACE, "") not in ("", "0")
        self._changed = changed
        self._manager = _Manager(NAME)
        for module in specifications():
            self._manager.add_hookspecs(module)
        self._members: dict[int, Member] = {}

    # -- who is in it

    @property
    def members(self) -> tuple[Member, ...]:
        """The plugins, in the order of registration."""
        return tuple(self._members.values())

    def member(self, plugin: object) -> Member:
        """The entry of a registered object."""
        return self._members[id(plugin)]

    def register(self, plugin: object, name: str, origin: str = "") -> Member:
        """Take in an object's hook implementations.

        Raises:
            PluginError: A hook that does not exist, an argument that the specification does not
                have, an old-style wrapper, a name or object that is here already, or an object
                that compares by value (two equal plugins would be one).
        """
        origin = origin or f"{type(plugin).__module__}.{type(plugin).__qualname__}"
        member = Member(plugin, name, origin)
        if type(plugin).__eq__ is not object.__eq__:
            raise PluginError(
                origin, "register", f"{type(plugin).__name__} compares by value: use eq=False"
            )
        try:
            self._manager.register(plugin, name)
            unknown = self._unknown(plugin)
            if unknown:
                raise PluginError(origin, unknown, f"no such hook ({self._near(unknown)})")
            for caller in self._callers_of(plugin):
                for impl in caller.get_hookimpls():
                    if impl.plugin is plugin and impl.hookwrapper:
                        raise PluginError(origin, caller.name, "use wrapper=True, not hookwrapper")
        except (ValueError, pluggy.PluginValidationError, PluginError) as exc:
            if self._manager.get_plugin(name) is plugin and id(plugin) not in self._members:
                self._manager.unregister(plugin)
            if isinstance(exc, PluginError):
                raise
            reason = " ".join(str(exc).split())
            raise PluginError(origin, "register", reason) from exc
        self._members[id(plugin)] = member
        self._changed()
        return member

    def unregister(self, plugin: object) -> None:
        """Let an object go; one that is not here is ignored."""
        if self._members.pop(id(plugin), None) is not None:
            self._manager.unregister(plugin)
            self._changed()

    def _callers_of(self, plugin: object) -> list[pluggy.HookCaller]:
        return self._manager.get_hookcallers(plugin) or []

    def _unknown(self, plugin: object) -> str:
        for caller in self._callers_of(plugin):
            if not caller.has_spec():
                return caller.name
        return ""

    def _near(self, name: str) -> str:
        known = [n for module in specifications() for n in vars(module) if n.startswith("emudev_")]
        return hint(name, known)

    # -- hooks with one answer

    def implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """The implementations of a hook that are no wrappers, in the order of registration."""
        return [i for i in self._caller(hook).get_hookimpls() if not i.wrapper]

    def direct(self, hook: str) -> bool:
        """Whether exactly one implementation answers the hook, and nobody watches."""
        impls = self._caller(hook).get_hookimpls()
        return len(impls) == 1 and not impls[0].wrapper and not self.tracing

    def function(self, hook: str) -> Callable[..., Any] | None:
        """What to call for a hook with one answer, positionally in the specification's order.

        Good until a plugin comes or goes. None if nobody implements the hook.
        """
        if not self.implementations(hook):
            return None
        caller = self._caller(hook)
        assert caller.spec is not None
        names = tuple(caller.spec.argnames)
        if self.direct(hook):
            impl = caller.get_hookimpls()[0]
            if tuple(impl.argnames) == names:
                return impl.function
            return _adapter(names, tuple(impl.argnames), impl.function)
        return self._traced(hook, names) if self.tracing else _by_name(names, caller)

    def _traced(self, hook: str, names: tuple[str, ...]) -> Callable[..., Any]:
        caller = self._caller(hook)

        def call(*values: Any) -> Any:
            arguments = dict(zip(names, values, strict=True))
            try:
                answer = caller(**arguments)
            except BaseException as exc:
                self._print(hook, arguments, f"raised {type(exc).__name__}: {exc}")
                raise
            self._print(hook, arguments, f"-> {_short(answer)}")
            return answer

        return call

    # -- hooks that are announced

    def announce(
        self,
        hook: str,
        arguments: dict[str, Any] | None = None,
        *,
        only: Container[int] | None = None,
        stop: bool = False,
        reverse: bool = False,
    ) -> tuple[list[Member], list[Failure]]:
        """Call every implementation of a hook, each inside a guard.

        Wrappers are around all of them; a wrapper that fails is left out and the rest go on.

        Args:
            hook: Its name.
            arguments: By name.
            only: Ids (`id()`) of the plugins to call; None for all.
            stop: End at the first failure.
            reverse: Call the plugin that was registered last first.

        Returns:
            Whose implementation came to its end, in order, and what the others raised.
        """
        values = arguments or {}
        caller = self._caller(hook)
        done: list[Member] = []
        failures: list[Failure] = []
        impls = caller.get_hookimpls()
        wrappers = []
        for impl in reversed([i for i in impls if i.wrapper]):
            generator = self._guard(hook, impl, failures, _enter, impl, values)
            if generator is not None:
                wrappers.append((impl, generator))
        called = sorted((i for i in impls if not i.wrapper), key=_urgency)
        if reverse:
            called.reverse()
        answers: list[Any] = []
        for impl in called:
            if only is not None and id(impl.plugin) not in only:
                continue
            before = len(failures)
            answer = self._guard(hook, impl, failures, _call, impl, values)
            if len(failures) > before:
                if stop:
                    break
                continue
            done.append(self._members[id(impl.plugin)])
            if answer is not None:
                answers.append(answer)
        for impl, generator in reversed(wrappers):
            self._guard(hook, impl, failures, _leave, generator, answers)
        if self.tracing:
            said = "; ".join(f"{f.member} raised {f.error}" for f in failures)
            told = ", ".join(map(str, done)) or "nobody"
            self._print(hook, values, f"told {told} {said}".strip())
        return done, failures

    def answers(
        self,
        hook: str,
        arguments: dict[str, Any],
        *,
        skip: Container[int] = (),
        lost: list[Failure] | None = None,
    ) -> list[tuple[Member, Any]]:
        """Call every implementation of an announced hook that answers, but those of `skip`.

        Args:
            hook: Its name.
            arguments: By name.
            skip: Ids (`id()`) of the plugins to leave out.
            lost: Takes what implementations raised, and the others go on; None raises it.

        Returns:
            The answers that are not None, with who gave them.

        Raises:
            EmudevError: The first implementation that raised, named.
        """
        found: list[tuple[Member, Any]] = []
        for impl in self.implementations(hook):
            if id(impl.plugin) in skip:
                continue
            failures: list[Failure] = []
            answer = self._guard(hook, impl, failures, _call, impl, arguments)
            if failures:
                if lost is None:
                    raise failures[0].error
                lost += failures
            if answer is not None:
                found.append((self._members[id(impl.plugin)], answer))
        return found

    def _guard(
        self,
        hook: str,
        impl: pluggy.HookImpl,
        failures: list[Failure],
        function: Callable[..., Any],
        *arguments: Any,
    ) -> Any:
        try:
            return function(*arguments)
        except EmudevError as exc:
            failures.append(Failure(self._members[id(impl.plugin)], exc))
        except Exception as exc:
            member = self._members[id(impl.plugin)]
            error = PluginError(str(member), hook, exc)
            error.__cause__ = exc
            failures.append(Failure(member, error))
        return None

    def _caller(self, hook: str) -> pluggy.HookCaller:
        caller: pluggy.HookCaller | None = getattr(self._manager.hook, hook, None)
        if caller is None or not caller.has_spec():
            raise DeviceError(f"{self.owner}: no hook {hook} ({self._near(hook)})")
        return caller

    def _print(self, hook: str, arguments: dict[str, Any], outcome: str) -> None:
        shown = ", ".join(f"{name}={_short(value)}" for name, value in arguments.items())
        sys.stderr.write(f"emudev: hook: {self.owner}: {hook}({shown}) {outcome}\n")


def report(owner: str, failures: Sequence[Failure]) -> None:
    """Log what announced hooks raised, where nobody is told otherwise."""
    for failure in failures:
        log.error("%s: %s", owner, failure.error, exc_info=failure.error.__cause__)


def _short(value: Any) -> str:
    """A value for a trace: numbers in hex, long ones cut."""
    if type(value) is int and value > 9:
        return hex(value)
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _urgency(impl: pluggy.HookImpl) -> int:
    return -1 if impl.tryfirst else 1 if impl.trylast else 0


def _call(impl: pluggy.HookImpl, values: dict[str, Any]) -> Any:
    answer = impl.function(*[values[name] for name in impl.argnames])
    # A generator's body runs where its errors can be told from another plugin's.
    return list(answer) if isinstance(answer, Iterator) else answer


def _enter(impl: pluggy.HookImpl, values: dict[str, Any]) -> Generator[None, list[Any], Any]:
    generator: Generator[None, list[Any], Any] = _start(impl, values)
    next(generator)
    return generator


def _start(impl: pluggy.HookImpl, values: dict[str, Any]) -> Any:
    return impl.function(*[values[name] for name in impl.argnames])


def _leave(generator: Generator[None, list[Any], Any], answers: list[Any]) -> None:
    try:
        generator.send(answers)
    except StopIteration:
        return
    generator.close()
    raise RuntimeError("the wrapper yields more than once")


def _by_name(names: Sequence[str], caller: pluggy.HookCaller) -> Callable[..., Any]:
    def call(*values: Any) -> Any:
        return caller(**dict(zip(names, values, strict=True)))

    return call


def _adapter(
    names: tuple[str, ...], taken: tuple[str, ...], function: Callable[..., Any]
) -> Callable[..., Any]:
    """A function with the specification's arguments that passes on those that are taken.

    It is compiled from a line of source, since a register access goes through it: picking the
    arguments out of a tuple costs three times as much.
    """
    source = f"lambda {', '.join(names)}: _function({', '.join(taken)})"
    adapted: Callable[..., Any] = eval(source, {"_function": function})
    return adapted
