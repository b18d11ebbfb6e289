"""What a memif shows of itself."""

from emudev_core.host import Host


def test_peer_and_rings_are_shown_before_and_after_a_peer_has_come(tmp_path):
    with Host() as host:
        words = f"emu_memif,socket={tmp_path}/m.sock,memif-id=0"
        server = host.add(f"{words},role=server,id=0,queues=2")
        client = host.add(f"{words},role=client,id=1,queues=2")
        host.start()

        def rows(device, name):
            [section] = [s for _, s in device.get_state() if s.name == name]
            return [dict(row) for row in section.read()]

        for device, role in ((server, "server"), (client, "client")):
            [peer] = rows(device, "peer")
            assert (peer["role"], peer["connected"], peer["connects"]) == (role, False, 0)
            assert [row["direction"] for row in rows(device, "rings")] == ["rx", "tx"] * 2
            assert not any(row["connected"] or row["slots"] for row in rows(device, "rings"))
            device.set_attr("link", True)
        for _ in range(500):
            host.loop.turn(0.01)
            if rows(server, "peer")[0]["connected"] and rows(client, "peer")[0]["connected"]:
                break
        for device in (server, client):
            assert rows(device, "peer")[0]["connects"] == 1
            assert all(row["connected"] and row["slots"] for row in rows(device, "rings"))
