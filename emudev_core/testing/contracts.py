"""The suites that every provider, transport and backend passes.

Subclass one in a test file and name what is under test; a plugin that can do less says so by an
attribute, never by skipping tests. The plugin's distribution has to be installed, or the fixture
`plugins` to be overridden with `builders.make_plugins`.
"""

from .backend_contract import BackendContract
from .provider_contract import ProviderContract
from .transport_contract import TransportContract

__all__ = ["BackendContract", "ProviderContract", "TransportContract"]
