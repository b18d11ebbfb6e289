"""What the prompt says from its start to its end: control, display, and the same as objects."""

import json

from prompts import FRAME, Prompt

from emudev_net.port import PortState
from emudev_testpmd.prompt.table import COMMANDS

# -- from the start to the end


def test_bringing_up_says_what_testpmd_says(plain_loop):
    prompt = Prompt(plain_loop, "-i -a --forward-mode=mac")
    for port in prompt.ports:
        port.set_peer(False)
    prompt.application.bring_up()
    mac = "02:65:6D:75:00:0"
    assert prompt.take()[0] == (
        "Interactive-mode selected\nAuto-start selected\nSet mac packet forwarding mode\n"
        f"Configuring Port 0 (socket 0)\nPort 0: {mac}0\n"
        f"Configuring Port 1 (socket 0)\nPort 1: {mac}1\n"
        "Checking link statuses...\nDone\n"
    )
    prompt.engine.close()


def test_ports_rest_if_they_are_not_to_be_started(plain_loop):
    prompt = Prompt(plain_loop, "-i --disable-device-start")
    prompt.application.bring_up()
    assert "Configuring" not in prompt.take()[0]
    assert all(port.state is PortState.NEW for port in prompt.ports)
    prompt.engine.close()


def test_without_a_prompt_packets_are_forwarded_at_once(make_prompt):
    prompt = make_prompt("--forward-mode=io")
    prompt.application.begin()
    text = prompt.take()[0]
    assert text.startswith("No commandline core given, start packet forwarding\nio packet")
    assert prompt.engine.running


def test_with_a_prompt_packets_wait_for_start(make_prompt):
    prompt = make_prompt("-i")
    prompt.application.begin()
    assert not prompt.engine.running
    assert prompt.take()[0] == ""


def test_auto_start_does_not_wait_for_start(make_prompt):
    prompt = make_prompt("-i -a")
    prompt.application.begin()
    assert prompt.take()[0].startswith("Start automatic packet forwarding\nio packet")
    assert prompt.engine.running


def test_a_burst_comes_first_if_that_is_wanted(make_prompt):
    prompt = make_prompt("--tx-first --burst=4")
    prompt.application.begin()
    prompt.turn()
    assert len(prompt.ports[0].sent()) == 4
    assert len(prompt.ports[1].sent()) == 4


def test_shutting_down_shows_totals_and_closes_the_ports(prompt):
    prompt("start")
    prompt.take()
    prompt.application.shut_down()
    text = prompt.take()[0]
    assert text.startswith("Telling cores to stop...\nWaiting for lcores to finish...\n")
    assert text.endswith(
        "\nDone.\n"
        "\nStopping port 0...\nStopping ports...\nDone\n"
        "\nStopping port 1...\nStopping ports...\nDone\n"
        "\nShutting down port 0...\nClosing ports...\nPort 0 is closed\nDone\n"
        "\nShutting down port 1...\nClosing ports...\nPort 1 is closed\nDone\n"
        "\nBye...\n"
    )
    assert all(port.state is PortState.CLOSED for port in prompt.ports)


def test_statistics_come_at_once_and_every_so_often(make_prompt):
    prompt = make_prompt("--stats-period=0.01")
    prompt.application.begin()
    head = "\x1b[2J\x1b[1;1H\nPort statistics ====================================\n  ####"
    assert prompt.take()[0].count(head) == 1
    seen = ""
    while seen.count(head) < 2:
        prompt.loop.turn(0.05)
        seen += prompt.take()[0]
    prompt.application.shut_down()
    prompt.take()
    prompt.loop.turn(0.05)
    assert "Port statistics" not in prompt.take()[0]


def test_a_file_of_commands_is_run_at_first(make_prompt, tmp_path):
    path = tmp_path / "commands"
    path.write_text("# a comment\nset burst 7\nstart\n")
    prompt = make_prompt(f"-i --cmdline-file={path}")
    prompt.application.begin()
    text = prompt.take()[0]
    assert text.startswith("Number of packets per burst set to 7\n")
    assert text.endswith(f"Read CLI commands from {path}\n")
    assert prompt.engine.running


# -- control


def test_start_and_stop_move_packets_and_count_them(prompt):
    text = prompt("start")
    assert "io packet forwarding - ports=2 - cores=1 - streams=2" in text
    assert "  io packet forwarding packets/burst=32\n" in text
    prompt.ports[0].arrive([FRAME] * 3)
    prompt.turn()
    assert [packet.data for packet in prompt.ports[1].sent()] == [FRAME] * 3
    text = prompt("stop")
    assert "  RX-packets: 3              RX-dropped: 0             RX-total: 3\n" in text
    assert text.endswith("\nDone.\n")


def test_start_and_stop_twice_is_refused_in_testpmds_words(prompt):
    assert prompt.refused("stop") == "Packet forwarding not started\n"
    prompt("start")
    assert "Packet forwarding already started\n" in prompt.refused("start")


def test_start_needs_all_ports(prompt):
    prompt("port stop 1")
    assert prompt.refused("start").startswith("Not all ports were started")


def test_start_tx_first_sends_bursts_before(prompt):
    prompt("set burst 2")
    prompt("start tx_first 3")
    prompt.turn()
    assert len(prompt.ports[0].sent()) == 6


def test_quit_ends_the_loop(prompt):
    prompt("quit")
    assert prompt.stopped == 1
    assert prompt.application.ended


def test_help_lists_topics_and_commands(prompt):
    text = prompt("help")
    assert "    help display                    : Display.\n" in text
    text = prompt("help control")
    assert "\nControl forwarding:\n-------------------\n" in text
    assert "start tx_first\n    Forward packets after" in text
    assert "set promisc" not in text
    text = prompt("help all")
    for command in COMMANDS:
        assert f"{command.text}\n    {command.help}\n" in text


def test_load_runs_a_file_and_says_what_is_wrong_in_it(prompt, tmp_path):
    path = tmp_path / "commands"
    path.write_text("set burst 9\nset brust 8\nset fwd mac\n")
    assert "did you mean burst" in prompt.refused(f"load {path}")
    assert prompt.engine.options.burst == 9
    assert prompt.engine.options.forward_mode == "mac"


def test_load_of_no_file_and_of_itself_are_refused(prompt, tmp_path):
    message = prompt.refused("load /nowhere/at/all")
    assert message.startswith("Failed to create file based cmdline context: /nowhere/at/all")
    path = tmp_path / "commands"
    path.write_text(f"load {path}\n")
    assert "name each other 10 deep" in prompt.refused(f"load {path}")


def test_unknown_commands_name_the_nearest(prompt):
    assert prompt.refused("strat") == "Command not found (did you mean start?)\n"
    assert "did you mean stats?" in prompt.refused("show port stat 0")


def test_empty_lines_and_comments_do_nothing(prompt):
    assert prompt("") == ""
    assert prompt("  # nothing") == ""


# -- display


def test_statistics_of_ports_are_shown_and_cleared(prompt):
    prompt("start")
    prompt.ports[0].arrive([FRAME] * 5)
    prompt.turn()
    text = prompt("show port stats all")
    assert "NIC statistics for port 0  ####" in text
    assert "  RX-packets: 5          RX-missed: 0          RX-bytes:  320\n" in text
    assert "  TX-packets: 5          TX-errors: 0          TX-bytes:  320\n" in text
    assert "rx_good_packets: 5\n" in prompt("show port xstats 0")
    assert prompt("clear port stats 0") == "\n  NIC statistics for port 0 cleared\n"
    assert "  RX-packets: 0  " in prompt("show port stats 0")
    assert "  TX-packets: 5  " in prompt("show port stats 1")
    assert prompt("clear port xstats all") == ""
    assert "tx_good_packets: 0\n" in prompt("show port xstats 1")


def test_what_ports_are_is_shown(prompt):
    text = prompt("show port info 1")
    assert "********************* Infos for port 1  *********************\n" in text
    assert "Driver name: net_memory\n" in text
    assert "Link status: up\n" in text
    assert prompt("show port info all").count("Infos for port") == 2
    text = prompt("show port summary all")
    assert text.splitlines()[0] == "Number of available ports: 2"
    assert "0    02:65:6D:75:00:00 net_memory_0 net_memory     up       10 Gbps\n" in text
    assert prompt("show port 1 macs") == "Number of MAC address added: 1\n  02:65:6D:75:00:01\n"


def test_a_port_that_is_not_there_is_named_with_those_that_are(prompt):
    for line in ("show port stats 7", "show port info 7", "clear port stats 7", "port stop 7"):
        assert prompt.refused(line) == "Invalid port 7\nThe valid ports array is [ 0 1 ]\n"


def test_the_configuration_is_shown(prompt):
    assert prompt("show config fwd").startswith("io packet forwarding - ports=2")
    assert "port 1: RX queue number: 1 Tx queue number: 1\n" in prompt("show config rxtx")
    assert prompt("show config cores") == "List of forwarding lcores:  1\n"
    prompt("set txpkts 64,100")
    assert "Segment sizes: 64,100\n" in prompt("show config txpkts")


def test_what_was_forwarded_is_shown_and_cleared(prompt):
    assert prompt.refused("show fwd stats all") == "Packet forwarding not started\n"
    prompt("start")
    prompt.ports[1].arrive([FRAME] * 2)
    prompt.turn()
    assert "RX-total: 2\n" in prompt("show fwd stats all")
    assert prompt("clear fwd stats all") == ""
    assert "RX-total: 2\n" not in prompt("show fwd stats all")


def test_an_odd_number_of_ports_is_warned_of_once(make_prompt):
    prompt = make_prompt("-i", ports=1)
    text = prompt("start")
    assert text.startswith("\nWarning! port-topology=paired and odd forward ports number,")
    prompt("stop")
    assert "Warning" not in prompt("start")


# -- JSON


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


def test_results_are_objects_and_words_are_elsewhere(make_prompt):
    prompt = make_prompt("-i", as_json=True)
    prompt.application.execute("start")
    prompt.ports[0].arrive([FRAME] * 4)
    prompt.turn()
    prompt.take()
    prompt.application.execute("show port stats all")
    prompt.application.execute("show port xstats 1")
    prompt.application.execute("show port info 0")
    prompt.application.execute("show port summary all")
    prompt.application.execute("stop")
    results, words = prompt.take()
    stats, xstats, info, summary, totals = objects(results)
    assert [one["type"] for one in (stats, xstats, info, summary, totals)] == [
        *("stats", "xstats", "info", "summary", "totals")
    ]
    assert [port["port"] for port in stats["ports"]] == [0, 1]
    assert stats["ports"][0]["ipackets"] == 4
    assert stats["ports"][1]["obytes"] == 4 * 64
    assert {"rx_pps", "tx_bps", "name", "mac", "link"} <= set(stats["ports"][0])
    assert xstats["xstats"]["tx_good_packets"] == 4
    assert info["driver"] == "net_memory"
    assert info["mac"] == "02:65:6d:75:00:00"
    assert [port["link"] for port in summary["ports"]] == ["up", "up"]
    assert totals["rx_packets"] == totals["tx_packets"] == 4
    assert totals["ports"][1]["opackets"] == 4
    assert totals["streams"][0] == {
        **{"rx_port": 0, "rx_queue": 0, "tx_port": 1, "tx_queue": 0},
        **{"rx_packets": 4, "tx_packets": 4, "tx_dropped": 0, "refused": 0},
        **{"rx_bad_ip_csum": 0, "rx_bad_l4_csum": 0},
    }
    assert "Telling cores to stop" in words


def test_events_are_objects_too(make_prompt):
    prompt = make_prompt("-i", as_json=True)
    prompt.ports[0].set_peer(False)
    prompt.ports[1].fail("its wire was cut")
    found = objects(prompt.take()[0])
    assert {"port": 0, "link": "down"}.items() <= found[0].items()
    assert found[0]["type"] == "link"
    assert {"type": "failed", "port": 1, "reason": "its wire was cut"}.items() <= (
        found[-1].items()
    )
