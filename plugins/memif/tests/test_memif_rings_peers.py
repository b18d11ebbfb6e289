"""Rings without a peer, and with peers that go and come back: what is dropped, what goes on."""

from emudev_core.queues import Offload
from emudev_memif.plain_peer import PlainClient
from emudev_memif.rings import KERNELS, RingSet, Role
from emudev_memif.testing.steps import frames
from emudev_net.burst import Burst

SLOTS = 16


def test_nothing_is_shown_and_all_is_dropped_while_nobody_is_connected(compiled_or_plain):
    compiled_or_plain(*KERNELS)
    for role in Role:
        rings = RingSet(role, 2)
        burst = Burst.of(frames(3, 100), split=60)
        for pair in range(2):
            kernels = rings.kernels(2 * pair + 1)
            assert kernels.peek(kernels.state, burst.address, 6) == 0
            assert kernels.release(kernels.state, burst.address, 6) == 0
            kernels = rings.kernels(2 * pair)
            assert kernels.push(kernels.state, burst.address, 6) == 6
            assert kernels.notify(kernels.state, 0, 0) == 0
            assert rings.stats(2 * pair).dropped == {"link": 3, "length": 0, "buffer": 0}
            assert rings.size(2 * pair) == 0
            assert not rings.connected(2 * pair)
            assert not rings.pending(2 * pair + 1)
        rings.close()
        rings.close()


def test_rows_of_before_a_detach_complete_nothing(join):
    joined = join()
    joined.peer.send(0, frames(3))
    joined.peek()
    joined.rings.detach()
    joined.release()
    joined.join()
    joined.release()
    assert joined.rings.stats(1).packets == 0
    assert joined.peer.room() == SLOTS
    joined.peer.send(0, frames(3, first=5))
    stale = list(joined.burst.words.view[:24])
    joined.peek()
    fresh = list(joined.burst.words.view[:24])
    joined.burst.words.view[:24] = memoryview(bytearray(24 * 8)).cast("q")
    for i, word in enumerate(stale):
        joined.burst.words[i] = word
    joined.release(3)
    assert joined.rings.stats(1).packets == 0
    for i, word in enumerate(fresh):
        joined.burst.words[i] = word
    joined.release(3)
    assert joined.rings.stats(1).packets == 3


def test_a_peer_that_comes_back_finds_a_working_interface_and_counters_go_on(join):
    joined = join()
    for turn in range(3):
        joined.peer.send(0, frames(3, first=turn))
        assert joined.take() == frames(3, first=turn)
        joined.push(frames(2, first=turn))
        assert joined.receive() == frames(2, first=turn)
        joined.rings.detach()
        assert joined.push(frames(1)) == 1
        joined.join()
    assert joined.rings.stats(0).packets == 6
    assert joined.rings.stats(0).dropped == {"link": 3, "length": 0, "buffer": 0}
    assert joined.rings.stats(1).packets == 9


def test_each_pair_has_rings_of_its_own(join):
    joined = join(pairs=3)
    for queue in range(3):
        joined.peer.send(queue, frames(2, first=queue))
        joined.push(frames(3, first=10 * queue), queue=queue)
    for queue in (2, 0, 1):
        assert joined.take(queue=queue) == frames(2, first=queue)
        assert joined.receive(queue) == frames(3, first=10 * queue)


def test_pairs_without_a_ring_are_as_if_nobody_was_connected(compiled_or_plain):
    compiled_or_plain(*KERNELS)
    rings = RingSet(Role.SERVER, 2)
    peer = PlainClient(1)
    peer.join(rings)
    assert [rings.connected(queue) for queue in range(4)] == [True, True, False, False]
    kernels = rings.kernels(2)
    assert kernels.push(kernels.state, Burst.of(frames(1)).address, 1) == 1
    assert rings.stats(2).dropped["link"] == 1
    rings.close()
    peer.close()


# -- kernels as the rest of the world sees them


def test_kernels_say_what_they_are():
    server, client = RingSet(Role.SERVER, 1), RingSet(Role.CLIENT, 1)
    assert server.kernels(0).kind == "memif-server-push"
    assert client.kernels(0).kind == "memif-client-push"
    for rings in (server, client):
        assert rings.kernels(0).takes == Offload.NONE
        assert rings.kernels(0).peek is None
        assert rings.kernels(1).push is None
        assert set(rings.kernels(1).forward) == {"memif-server-push", "memif-client-push"}
        assert rings.kernels(0).state == rings.kernels(0).state != rings.kernels(1).state
        rings.close()
