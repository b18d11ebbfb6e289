"""Both roles against a plain peer: frames, chains, room, order, counters."""

from emudev_memif.plain_peer import Descriptor, PlainServer
from emudev_memif.rings import KERNELS, RingSet, Role, layout
from emudev_memif.testing.steps import frames
from emudev_net import burst as b
from emudev_net.burst import Burst, Packet

SLOTS = 16


# -- from the peer


def test_frames_from_the_peer_are_shown_where_they_lie(join):
    joined = join()
    sent = frames(3, 60) + frames(2, 1500, 9)
    assert joined.peer.send(0, sent) == 5
    assert joined.peek() == sent
    for i, packet in enumerate(joined.burst.packets(joined.rows)):
        row = joined.burst.words.view[8 * i : 8 * i + 8].tolist()
        assert row[1] == len(sent[i])
        assert row[2] == b.FIRST | b.LAST
        assert row[3:6] == [0, 0, 0]
        assert row[7] == 0
        assert packet.segments == (len(sent[i]),)


def test_every_word_of_a_row_is_written(join):
    joined = join()
    joined.peer.send(0, frames(2))
    joined.peer.send(0, frames(1, 100), split=60)
    for i in range(8 * 4):
        joined.burst.words[i] = -1
    joined.peek()
    assert joined.rows == 4
    for i in range(4):
        row = joined.burst.words.view[8 * i : 8 * i + 8].tolist()
        assert -1 not in row
        assert row[3:6] == [0, 0, 0]
        assert row[7] == 0


def test_what_was_not_released_is_shown_again(join):
    joined = join()
    sent = frames(4)
    joined.peer.send(0, sent[:3])
    assert joined.peek() == sent[:3]
    joined.peer.send(0, sent[3:])
    assert joined.peek() == sent
    joined.release(2)
    assert joined.peek() == sent[2:]
    joined.release()
    assert joined.peek() == []


def test_slots_come_back_to_the_peer_when_they_are_released_and_not_before(join):
    joined = join()
    assert joined.peer.room() == SLOTS
    joined.peer.send(0, frames(5))
    joined.peek()
    assert joined.peer.room() == SLOTS - 5
    joined.release(3)
    assert joined.peer.room() == SLOTS - 2


def test_a_full_ring_is_drained_and_filled_again(join):
    joined = join()
    for turn in range(4):
        sent = frames(SLOTS, 60, turn)
        assert joined.peer.send(0, [*sent, b"x" * 60]) == SLOTS
        assert joined.take() == sent


def test_peek_shows_no_more_rows_than_it_is_given(join):
    joined = join()
    sent = frames(6)
    joined.peer.send(0, sent)
    assert joined.take(4) == sent[:4]
    assert joined.take(4) == sent[4:]


def test_a_chain_is_one_packet_of_several_rows(join):
    joined = join()
    sent = [frames(1, 100)[0], frames(1, 700)[0], frames(1, 60)[0]]
    joined.peer.send(0, sent, split=256)
    assert joined.peek() == sent
    assert [p.segments for p in joined.burst.packets(joined.rows)] == [
        (100,),
        (256, 256, 188),
        (60,),
    ]
    joined.release()
    assert joined.peer.room() == SLOTS


def test_a_chain_goes_over_the_end_of_the_array(join):
    joined = join()
    joined.peer.send(0, frames(SLOTS - 2))
    joined.take()
    sent = frames(1, 1000)
    joined.peer.send(0, sent, split=200)
    assert joined.take() == sent


def test_a_chain_that_does_not_fit_the_rest_of_the_burst_waits(join):
    joined = join()
    sent = [frames(1, 60)[0], frames(1, 700)[0]]
    joined.peer.send(0, sent, split=256)
    assert joined.take(3) == sent[:1]
    assert joined.take(3) == sent[1:]


def test_a_chain_longer_than_any_burst_is_dropped_and_its_slots_come_back(join):
    joined = join()
    joined.peer.send(0, [*frames(1, 700), *frames(1, 60)], split=100)
    assert joined.take(4) == frames(1, 60)
    assert joined.drops(1) == {"segments": 1}
    assert joined.peer.room() == SLOTS


def test_released_slots_carry_no_next_flag(join):
    # Some senders keep the flags of a slot that they use again (memif.md section 7).
    joined = join()
    joined.peer.send(0, frames(1, 1000), split=100)
    joined.take()
    assert [joined.source[i].flags for i in range(SLOTS)] == [0] * SLOTS


def test_a_packet_is_released_only_once(join):
    joined = join()
    joined.peer.send(0, frames(2))
    joined.peek()
    joined.release()
    joined.peer.send(0, frames(2, first=7))
    joined.release()
    assert joined.peek() == frames(2, first=7)
    assert joined.rings.stats(1).packets == 2


# -- to the peer


def test_pushed_frames_reach_the_peer(join):
    joined = join()
    sent = frames(3) + frames(2, 1500)
    assert joined.push(sent) == 5
    assert joined.receive() == sent


def test_packets_of_several_segments_are_put_together(join):
    joined = join()
    sent = frames(2, 1000)
    assert joined.push(sent, split=300) == 8
    assert joined.receive() == sent


def test_a_segment_without_bytes_changes_nothing(join):
    joined = join()
    frame = frames(1, 90)[0]
    burst = Burst(3)
    for parts in ([b"", frame[:40], b"", frame[40:], b""], [frame, b""]):
        burst = Burst(len(parts))
        burst.append(Packet(frame), parts)
        assert joined.push(burst) == len(parts)
    assert joined.receive() == [frame, frame]


def test_a_long_packet_is_chained_over_buffers(join):
    joined = join(buffer_size=512)
    sent = [frames(1, 512)[0], frames(1, 513)[0], frames(1, 1536)[0], frames(1, 64)[0]]
    assert joined.push(sent, split=700) == 6
    assert [joined.sink[i][0] for i in range(7)] == [0, 1, 0, 1, 1, 0, 0]
    assert [joined.sink[i][2] for i in range(7)] == [512, 512, 1, 512, 512, 512, 64]
    assert joined.receive() == sent


def test_a_chain_that_just_fits_is_sent_and_one_that_just_does_not_waits_whole(join):
    joined = join(buffer_size=512)
    assert joined.push(frames(SLOTS - 3)) == SLOTS - 3
    long = frames(1, 3 * 512 + 1)
    assert joined.push(long) == 0
    assert joined.rings.held(0)
    assert joined.receive() == frames(SLOTS - 3)  # nothing of it was published
    assert joined.push(long) == 1
    assert not joined.rings.held(0)
    assert joined.receive() == long
    assert joined.push(frames(SLOTS - 3)) == SLOTS - 3
    assert joined.push(frames(1, 3 * 512)) == 1
    assert joined.receive() == frames(SLOTS - 3) + frames(1, 3 * 512)


def test_a_chain_to_the_peer_goes_over_the_end_of_the_array(join):
    joined = join(buffer_size=512)
    joined.push(frames(SLOTS - 2))
    joined.receive()
    sent = frames(1, 2000)
    assert joined.push(sent) == 1
    assert joined.receive() == sent


def test_a_full_ring_takes_what_it_has_room_for(join):
    joined = join()
    sent = frames(SLOTS + 5)
    assert joined.push(sent) == SLOTS
    assert joined.rings.held(0)
    assert joined.push(sent[SLOTS:]) == 0
    assert joined.receive() == sent[:SLOTS]
    assert joined.push(sent[SLOTS:]) == 5
    assert joined.receive() == sent[SLOTS:]


def test_a_packet_for_which_the_whole_ring_is_too_small_is_dropped(join):
    joined = join(log2_size=2, buffer_size=64, max_frame=1500)
    sent = [*frames(1, 256), *frames(1, 257), *frames(1, 60)]
    assert joined.push(sent) == 1
    assert joined.receive() == sent[:1]
    assert joined.push(sent[1:]) == 2
    assert joined.receive() == sent[2:]
    assert joined.drops(0) == {"length": 1}


def test_frames_that_are_empty_or_too_long_are_dropped_and_counted(join):
    joined = join(max_frame=1518)
    sent = [b"", bytes(1519), *frames(1, 1518), b""]
    assert joined.push(sent) == 4
    assert joined.receive() == frames(1, 1518)
    assert joined.drops(0) == {"length": 3}
    assert joined.push([bytes(1000) + bytes(519)], split=1000) == 2
    assert joined.drops(0) == {"length": 4}


# -- counters


def test_packets_and_bytes_are_counted_when_they_are_done(join):
    joined = join()
    joined.peer.send(0, frames(2, 100) + frames(1, 700), split=256)
    joined.peek()
    assert joined.rings.stats(1).packets == 0
    joined.release()
    assert (joined.rings.stats(1).packets, joined.rings.stats(1).bytes) == (3, 900)
    joined.push(frames(2, 100) + frames(1, 700), split=256)
    assert (joined.rings.stats(0).packets, joined.rings.stats(0).bytes) == (3, 900)


def test_a_part_of_a_burst_counts_as_the_part_it_is(join):
    joined = join()
    joined.peer.send(0, [*frames(1, 100), *frames(1, 300), *frames(1, 50)], split=200)
    joined.peek()
    joined.release(3)
    assert (joined.rings.stats(1).packets, joined.rings.stats(1).bytes) == (2, 400)
    joined.peek()
    joined.release()
    assert (joined.rings.stats(1).packets, joined.rings.stats(1).bytes) == (3, 450)


# -- what only a client does


def test_a_client_offers_all_buffers_at_its_first_look_and_restores_what_the_server_changed(
    compiled_or_plain,
):
    compiled_or_plain(*KERNELS)
    place = layout(1, 1, 4, 512)
    rings = RingSet(Role.CLIENT, 1)
    peer = PlainServer(place)
    peer.join(rings)
    assert peer.room() == 0
    burst = Burst(32)
    kernels = rings.kernels(1)
    kernels.peek(kernels.state, burst.address, 32)
    assert peer.room() == 16
    ring = peer.s2c[0]
    offered = [ring[i] for i in range(16)]
    assert {(d.flags, d.region, d.length) for d in offered} == {(0, 0, 512)}
    assert len({d.offset for d in offered}) == 16
    peer.send(0, frames(2, 100))
    for i in range(2):
        ring[i] = Descriptor(0x80, 77, 100, 0xFFFF_FFF0)
    assert kernels.peek(kernels.state, burst.address, 32) == 2
    assert [p.data for p in burst.packets(2)] == frames(2, 100)
    kernels.release(kernels.state, burst.address, 2)
    assert [ring[i] for i in range(16)] == offered
    assert ring.head == 18
    rings.close()
    peer.close()
