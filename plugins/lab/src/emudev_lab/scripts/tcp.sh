# TCP both ways, IPv4 and IPv6, compared byte for byte, with each offload on and off, and at an MTU of 9000.
# Variables: BYTES (1000000: of each transfer), JUMBO (9000; 0 leaves jumbo frames out)
# guest: helpers transfer
# guest: strict
# guest: timeout 240
BYTES=${BYTES:-1000000} JUMBO=${JUMBO:-9000}
nic_up
until_true 20 ping -q -c 1 -W 1 "$HOST_IP"
# both KEY [BYTES], both6 KEY: a transfer each way. A NIC that has died is not tried any further.
both() {
    check "$1_PUT" put "${2:-$BYTES}"
    check "$1_GET" get "${2:-$BYTES}"
    alive "$1"
}
both6() {
    check "$1_PUT6" put "$BYTES" "$HOST_IP6"
    check "$1_GET6" get "$BYTES" "$HOST_IP6"
    alive "$1"
}
alive() {
    [ "$FAILURES" = 0 ] && return
    until_true 5 ping -q -c 1 -W 1 "$HOST_IP" || fail "no traffic any more after $1"
}
both TINY 1
both ODD 65537
both PLAIN
both6 PLAIN

# state NAME: "on" or "off" if the offload can be changed here, else nothing.
state() { ethtool -k "$IF" | awk -v name="$1:" '$1 == name && $3 != "[fixed]" { print $2 }'; }
unchanged=
for feature in tcp-segmentation-offload generic-segmentation-offload tx-checksumming \
    rx-checksumming scatter-gather generic-receive-offload receive-hashing \
    rx-vlan-offload tx-vlan-offload tx-udp-segmentation; do
    was=$(state $feature)
    [ -n "$was" ] || { unchanged="$unchanged $feature"; continue; }
    key=$(echo $feature | tr a-z- A-Z_)
    for value in off on; do
        # Some drivers tie two offloads together and refuse one alone.
        ethtool -K "$IF" $feature $value >/dev/null 2>&1
        [ "$(state $feature)" = $value ] || { unchanged="$unchanged $feature=$value"; continue; }
        until_true 20 carrier "$IF"
        name=${key}_$(echo $value | tr a-z A-Z)
        both "$name"
        [ $feature = scatter-gather ] || [ $feature = generic-receive-offload ] || both6 "$name"
    done
    ethtool -K "$IF" $feature "$was" >/dev/null 2>&1
done
kv NOT_CHANGED "${unchanged:-none}"
# All at once off and on again: checksums, segmentation and gathering depend on each other.
ethtool -K "$IF" tx off rx off sg off tso off gso off gro off >/dev/null 2>&1
until_true 20 carrier "$IF"
both ALL_OFF
both6 ALL_OFF
ethtool -K "$IF" tx on rx on sg on tso on gso on gro on >/dev/null 2>&1
until_true 20 carrier "$IF"
both ALL_ON
if [ "$JUMBO" != 0 ]; then
    check JUMBO_MTU ip link set "$IF" mtu "$JUMBO"
    until_true 20 carrier "$IF"
    until_true 20 ping -q -c 1 -W 1 "$HOST_IP"
    until_true 20 ping -q -c 1 -W 1 "$HOST_IP6"
    both JUMBO
    both6 JUMBO
    ethtool -K "$IF" tso off >/dev/null 2>&1
    both JUMBO_TSO_OFF
    ethtool -K "$IF" tso on >/dev/null 2>&1
fi
kv RX_ERRORS "$(counter rx_errors)"
kv TX_ERRORS "$(counter tx_errors)"
finish
