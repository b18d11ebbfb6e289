# Round trips of every size that matters, jumbo frames, IPv6, and a flood.
# Variables: COUNT (100), FLOOD (1000), JUMBO (9000; 0 leaves jumbo frames out)
# guest: strict
# guest: timeout 180
COUNT=${COUNT:-100} FLOOD=${FLOOD:-1000} JUMBO=${JUMBO:-9000}
nic_up
ping -q -c 2 -i 0.2 "$HOST_IP" >/dev/null # addresses are resolved now, first uses are over

# pings KEY ARGUMENTS...: KEY_LOST and KEY_RTT_{MIN,AVG,MAX}_MS; a lost answer is a failure.
pings() {
    local key=$1
    shift
    ping -q "$@" >/tmp/pings 2>&1
    awk -v key="$key" '
        /packets transmitted/ { lost = $1 - $4; seen = 1 }
        /^rtt/ { split($4, rtt, "/") }
        END {
            printf "%s_LOST=%s\n", key, seen ? lost : "all"
            if (rtt[2] != "") printf "%s_RTT_MIN_MS=%s\n%s_RTT_AVG_MS=%s\n%s_RTT_MAX_MS=%s\n",
                key, rtt[1], key, rtt[2], key, rtt[3]
        }' /tmp/pings
    grep -q ' 0% packet loss' /tmp/pings && return
    tail -n 5 /tmp/pings
    FAILURES=$((FAILURES + 1))
}
# sizes KEY ADDRESS BYTES...: which payloads of a ping are not answered.
sizes() {
    local key=$1 address=$2 size bad=
    shift 2
    for size in "$@"; do
        ping -q -c 2 -i 0.02 -W 3 -M do -s "$size" "$address" 2>&1 | grep -q ' 0% packet loss' ||
            bad="$bad $size"
    done
    kv "${key}_UNANSWERED" "${bad:-none}"
    [ -z "$bad" ] || FAILURES=$((FAILURES + 1))
}
mark ping begin
pings PING -c "$COUNT" -i 0.02 "$HOST_IP"
mark ping end
pings PING6 -6 -c 20 -i 0.02 "$HOST_IP6"
begun=$(uptime_ms)
pings FLOOD -f -c "$FLOOD" "$HOST_IP"
kv FLOOD_PER_S $((FLOOD * 1000 / ($(uptime_ms) - begun + 1)))
check FROM_HOST host ping -q -c 50 -i 0.02 "$GUEST_IP"
# Frames that are padded, and those around powers of two and around the MTU.
edges="0 1 17 18 19 21 22 63 64 65 127 128 129 255 256 257 511 512 1023 1024 1025 1400 1451 1452"
sizes V4 "$HOST_IP" $edges 1471 1472
sizes V6 "$HOST_IP6" $edges
if [ "$JUMBO" != 0 ]; then
    if ip link set "$IF" mtu "$JUMBO"; then
        until_true 20 carrier "$IF"
        until_true 20 ping -q -c 1 -W 1 "$HOST_IP"
        until_true 20 ping -q -c 1 -W 1 "$HOST_IP6"
        pings JUMBO -c 50 -i 0.02 -M do -s $((JUMBO - 28)) "$HOST_IP"
        sizes JUMBO_V4 "$HOST_IP" 1473 1474 2000 2006 2007 2047 2048 2049 3000 4053 4054 4055 \
            4068 4096 6000 8191 8192 $((JUMBO - 29)) $((JUMBO - 28))
        sizes JUMBO_V6 "$HOST_IP6" 1453 2048 4096 8192 $((JUMBO - 48))
        check JUMBO_FROM_HOST host ping -q -c 5 -i 0.05 -W 2 -M do -s $((JUMBO - 28)) "$GUEST_IP"
        ip link set "$IF" mtu 1500
        until_true 20 carrier "$IF"
        until_true 20 ping -q -c 1 -W 1 "$HOST_IP"
        pings AFTER -c 5 -i 0.1 -W 2 "$HOST_IP"
    else
        check JUMBO_MTU false
    fi
fi
finish
