"""What tests of plugins are built with; needs ``emudev-core[testing]`` and no plugin.

`contracts` has the suites that every provider, transport and backend passes: import one, say what
is under test, and pytest does the rest.

    from emudev_core.testing.contracts import BackendContract

    class TestSink(BackendContract):
        vdev = "sink"

`builders` makes plugins, devices and guest memory; `loopback` is a transport inside the process,
`exerciser` a device that answers everything, `port` one whose queues carry frames.
"""
