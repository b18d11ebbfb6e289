"""A port of packets from and to capture files; see the README of emudev-pcap."""
