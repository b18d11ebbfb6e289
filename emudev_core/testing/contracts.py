"""The suites that every provider, transport and backend passes.

Subclass one in a test file and name what is under test. The plugin's distribution has
to be installed, or the fixture `plugins` to be overridden with `builders.make_plugins`.
"""

from .backend_contract import BackendContract, FrameBackendContract
from .provider_contract import ProviderContract
from .transport_contract import TransportContract

__all__ = ["BackendContract", "FrameBackendContract", "ProviderContract", "TransportContract"]
