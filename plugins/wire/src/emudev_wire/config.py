"""What a user may say about a wire."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from emudev_core.config import BackendConfig

__all__ = ["WireConfig"]


class WireConfig(BackendConfig):
    """Configuration of ``wire``; its two devices are named by ``a=`` and ``b=``."""

    patience: Annotated[
        int,
        Meta(
            ge=0,
            le=60_000,
            description="how long frames wait for an end without room before they are dropped; 0:"
            " they are dropped at once",
            extra_json_schema={"unit": "ms"},
        ),
    ] = 100
    workers: Annotated[
        int,
        Meta(
            ge=0,
            le=16,
            description="threads that move the frames, at most one for each receive queue of both"
            " ends; 0: the thread that serves the devices does, the fastest on few cores",
        ),
    ] = 0
    polling: Annotated[
        bool, Meta(description="workers never sleep: each takes a core for itself")
    ] = False

    def __post_init__(self) -> None:
        """Refuse polling without workers.

        Raises:
            ValueError: There is nobody to poll.
        """
        if self.polling and self.workers == 0:
            raise ValueError("polling: there are no workers to poll; add workers=1")
