# Bring-up: probe, link, what ethtool says, first pings both ways, and the kernel's log.
# Variables: MAC (the address that the device was given; default: any will do)
# guest: strict
pci=$(nic_pci)
kv PCI "$pci $(cat /sys/bus/pci/devices/"$pci"/vendor) $(cat /sys/bus/pci/devices/"$pci"/device)"
nic_up
about() { ethtool -i "$IF" | sed -n "s/^$1: //p"; }
kv DRIVER "$(about driver)"
kv FIRMWARE "$(about firmware-version)"
kv MAC "$(cat /sys/class/net/"$IF"/address)"
kv SPEED "$(cat /sys/class/net/"$IF"/speed 2>/dev/null)"
kv MAX_MTU "$(ip -d link show "$IF" | sed -n 's/.*maxmtu \([0-9]*\).*/\1/p')"
kv MSI_VECTORS "$(ls /sys/bus/pci/devices/"$pci"/msi_irqs 2>/dev/null | wc -l)"
kv TX_QUEUES "$(ls -d /sys/class/net/"$IF"/queues/tx-* | wc -l)"
kv RX_QUEUES "$(ls -d /sys/class/net/"$IF"/queues/rx-* | wc -l)"
# setting OPTION NAME: "maximum current" of a ring or channel count.
setting() {
    ethtool "$1" "$IF" 2>/dev/null | awk -v name="$2:" '
        $1 == name { printf "%s%s", separator, $2; separator = " " } END { print "" }'
}
kv RINGS_RX "$(setting -g RX)"
kv RINGS_TX "$(setting -g TX)"
kv CHANNELS "$(setting -l Combined)"
kv FEATURES_ON "$(ethtool -k "$IF" | sed -n 's/^[[:space:]]*\([a-z0-9-]*\): on.*/\1/p' | tr '\n' ' ')"
for option in "" -i -k -l -g -c -x -a -S; do
    echo "--- ethtool $option"
    # shellcheck disable=SC2086
    ethtool $option "$IF" 2>&1
done
echo "--- lspci"
lspci -vvv -s "$pci" 2>/dev/null
check PING ping -q -c 3 -i 0.1 -W 2 "$HOST_IP"
check PING6 ping -6 -q -c 3 -i 0.1 -W 2 "$HOST_IP6"
check PING_FROM_HOST host ping -q -c 3 -i 0.1 -W 2 "$GUEST_IP"
[ -z "$MAC" ] || check MAC_IS_GIVEN [ "$(cat /sys/class/net/"$IF"/address)" = "$MAC" ]
for name in rx_packets tx_packets rx_errors tx_errors rx_dropped tx_dropped; do
    kv "$(echo $name | tr a-z A-Z)" "$(counter $name)"
done
# QEMU's own e1000e counts what comes before its receiver is ready.
[ "$NIC_KIND" != vfio-user ] || check NO_ERRORS [ "$(counter rx_errors)$(counter tx_errors)" = 00 ]
echo "--- kernel log"
dmesg | grep -E "$NIC_DRIVER|$pci|$IF" | tail -n 40
finish
