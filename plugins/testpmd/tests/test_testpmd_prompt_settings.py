"""What is changed by the prompt: how packets are forwarded, what ports do."""

from emudev_core.errors import BackendError
from emudev_net.port import PortState

# -- settings


def test_modes_and_bursts_are_set(prompt):
    assert prompt("set fwd macswap") == "Set macswap packet forwarding mode\n"
    assert prompt("set burst 16") == "Number of packets per burst set to 16\n"
    assert prompt.refused("set burst 513") == (
        "nb pkt per burst: 513 > 512 (maximum packet per burst)  ignored\n"
    )
    assert "macswap packet forwarding packets/burst=16\n" in prompt("start")


def test_threads_are_as_many_as_were_given_at_most(make_prompt):
    prompt = make_prompt("-i", lcores=2)
    assert prompt("set nbcore 2") == "Number of forwarding cores set to 2\n"
    assert prompt.refused("set nbcore 3") == (
        "nb fwd cores 3 > 2 (max. number of configured lcores) - ignored\n"
    )
    assert prompt.refused("set nbcore 0")
    assert prompt.engine.options.nb_cores == 2


def test_cpus_of_threads_are_set(prompt):
    prompt("set corelist 3,5-6")
    assert prompt.engine.options.cpus == (3, 5, 6)
    assert prompt.engine.options.nb_cores == 3


def test_ports_that_forward_are_set(prompt):
    text = prompt("set portlist 1")
    assert (
        text == "previous number of forwarding ports 2 - changed to number of configured ports 1\n"
    )
    assert "RX P=1/Q=0 (socket 0) -> TX P=1/Q=0" in prompt("show config fwd")
    assert prompt("set nbport 2") == "Number of forwarding ports set to 2\n"
    assert "ports=2" in prompt("show config fwd")
    assert "nb fwd ports 3 > 2" in prompt.refused("set nbport 3")
    prompt("set nbport 1")
    assert "RX P=0/Q=0 (socket 0) -> TX P=0/Q=0" in prompt("show config fwd")
    prompt("set portmask 0x3")
    assert "ports=2" in prompt("show config fwd")
    assert "no port 7" in prompt.refused("set portlist 0,7")
    assert "no port 3" in prompt.refused("set portmask 8")


def test_closed_ports_can_be_taken_out_of_those_that_forward(prompt):
    prompt("set portlist 0,1")
    prompt("port stop 1")
    prompt("port close 1")
    assert "no port 1" in prompt.refused("show config fwd")
    prompt("set portlist 0")
    assert "ports=1" in prompt("show config fwd")


def test_peers_are_set(prompt):
    prompt("set eth-peer 1 52:54:00:00:00:09")
    assert "TX P=1/Q=0 (socket 0) peer=52:54:00:00:00:09\n" in prompt("show config fwd")
    assert prompt.refused("set eth-peer 9 52:54:00:00:00:09") == ("Error: Invalid port number 9\n")


def test_modes_of_ports_are_set(prompt):
    prompt("set promisc all off")
    assert [port.promiscuous for port in prompt.ports] == [False, False]
    prompt("set promisc 1 on")
    assert [port.promiscuous for port in prompt.ports] == [False, True]
    prompt("set allmulti 0 on")
    assert [port.all_multicast for port in prompt.ports] == [True, False]


def test_a_port_that_can_not_is_said_in_testpmds_words(prompt, monkeypatch):
    def refuse(on):
        raise BackendError("not here")

    monkeypatch.setattr(prompt.ports[0], "on_promiscuous", refuse)
    monkeypatch.setattr(prompt.ports[0], "on_all_multicast", refuse)
    assert prompt.refused("set promisc 0 off") == (
        "Error during disabling promiscuous mode for port 0: not here\n"
    )
    assert prompt.refused("set allmulti 0 on") == (
        "Error during enabling all-multicast mode for port 0: not here\n"
    )


def test_addresses_and_mtu_are_set(prompt):
    prompt("mac_addr set 0 02:00:00:00:00:77")
    assert prompt.ports[0].mac == bytes.fromhex("020000000077")
    prompt("port config mtu 1 1400")
    assert prompt.ports[1].mtu == 1400
    assert prompt.refused("port config mtu 1 10").startswith("Set MTU failed: ")


def test_checksums_are_left_to_ports_or_not(prompt):
    prompt("csum set udp hw 1")
    prompt("csum set tcp hw 1")
    prompt("csum set udp sw 1")
    assert prompt.engine.options.csum_hw == {1: frozenset({"tcp"})}


def test_queues_are_set_while_ports_rest(prompt):
    assert prompt.refused("port config all rxq 2") == "Please stop all ports first\n"
    prompt("port stop all")
    prompt("port config all rxq 2")
    prompt("port config all txq 2")
    prompt("port config all burst 8")
    prompt("port start all")
    assert [port.rx_queues for port in prompt.ports] == [2, 2]
    assert "streams=4" in prompt("show config fwd")


def test_more_queues_than_a_port_has_are_warned_of(prompt):
    prompt("port stop all")
    assert "port 0 has 2 receive and 2 transmit queues at most" in prompt.refused(
        "port config all rxq 3"
    )
    assert "receive queues" in prompt.refused("port start 0")


# -- ports


def test_ports_are_stopped_started_and_closed(prompt):
    text = prompt("port stop 0")
    assert text.startswith("Stopping ports...\n")
    assert text.endswith("Checking link statuses...\nDone\n")
    assert prompt("port stop 0") == "Stopping ports...\nDone\n"
    assert prompt.ports[0].state is PortState.STOPPED
    text = prompt("port start 0")
    assert "Port 0: 02:65:6D:75:00:00\nChecking link statuses...\nDone\n" in text
    assert prompt.refused("port start 0") == "Port 0 is now not stopped\n"
    assert prompt.refused("port close 0") == "Cannot close started device (port 0)\n"
    prompt("port stop 0")
    assert prompt("port close 0") == "Closing ports...\nPort 0 is closed\nDone\n"
    assert list(prompt.application.ports) == [1]
    assert "Number of available ports: 1\n" in prompt("show port summary all")


def test_ports_that_forward_are_not_stopped(prompt):
    prompt("start")
    assert prompt.refused("port stop 1") == (
        "Please remove port 1 from forwarding configuration.\n"
    )
    assert prompt.ports[1].state is PortState.STARTED


def test_ports_are_reset_while_they_rest(prompt):
    assert prompt.refused("port reset all") == (
        "Can not reset port(s), please stop port(s) first.\n"
    )
    prompt("port stop all")
    assert prompt("port reset all") == "Resetting ports...\nDone\n"
    prompt("port start all")
    assert "io packet forwarding" in prompt("start")


def test_links_are_set_and_told(prompt):
    assert prompt("set link-down port 0") == "\nPort 0: link state change event\n"
    assert not prompt.ports[0].link().up
    assert "net_memory     down     10 Gbps\n" in prompt("show port summary 0")
    prompt("set link-up port 0")
    assert prompt.ports[0].link().up
    assert prompt.refused("set link-up port 9") == "Invalid port_id=9\nSet link up fail.\n"


def test_a_peer_that_leaves_is_told(prompt):
    prompt.take()
    prompt.ports[1].set_peer(False)
    assert prompt.take()[0] == "\nPort 1: link state change event\n"


def test_a_port_that_fails_is_told_and_the_others_go_on(prompt):
    prompt("start")
    prompt.take()
    prompt.ports[1].fail("its wire was cut")
    assert "Port 1: error event: its wire was cut\n" in prompt.take()[0]
    assert prompt.engine.running
    assert "Done." in prompt("stop")
