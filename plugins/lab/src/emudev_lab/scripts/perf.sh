# What the NIC can carry: round trips, TCP both ways, small frames up and down.
# Variables: DUR (5 s each), TESTS (all), IDLE (0 s), STREAMS (1), RATE (packets offered a second to udp_down)
# guest: helpers iperf3
# guest: load pktgen
# guest: timeout 240
DUR=${DUR:-5} IDLE=${IDLE:-0} STREAMS=${STREAMS:-1} RATE=${RATE:-30000}
TESTS=${TESTS:-ping tcp_up tcp_down udp_up udp_down pktgen}
nic_up
ping -q -c 3 -i 0.2 "$HOST_IP" >/dev/null || fail "no answer to a ping"

interrupts() {
    awk -v name="$IF" -v driver="$NIC_DRIVER" -v pci="$(nic_pci)" '
        index($0, name) || index($0, driver) || index($0, pci) || /virtio[0-9]+-/ {
            for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) n += $i
        } END { print n + 0 }' /proc/interrupts
}
# measured NAME KEY COMMAND...: runs it between marks, with interrupts a second.
measured() {
    local name=$1 key=$2 before
    shift 2
    before=$(interrupts)
    mark "$name" begin
    "$@" >/tmp/measured 2>&1 || { FAILURES=$((FAILURES + 1)); tail -n 5 /tmp/measured; }
    mark "$name" end
    kv "${key}_IRQS_PER_S" $((($(interrupts) - before) / DUR))
}
tcp() {
    local key=$2
    measured "$1" "$key" iperf3 -c "$HOST_IP" -t "$DUR" -P "$STREAMS" -f m -i 0 $3
    awk -v key="$key" -v sum="$STREAMS" '
        sum > 1 && !/SUM/ { next }
        /sender/ { for (i = 1; i < NF; i++) if ($i ~ /bits\/sec/) retransmitted = $(i + 1) }
        /receiver/ { for (i = 1; i < NF; i++) if ($i ~ /bits\/sec/) rate = $(i - 1) }
        END { printf "%s_MBPS=%s\n%s_RETRANSMITTED=%d\n", key, rate + 0, key, retransmitted }' \
        /tmp/measured
}
udp() {
    local key=$2
    # shellcheck disable=SC2086
    measured "$1" "$key" iperf3 -c "$HOST_IP" -u -t "$DUR" -l 64 -f m -i 0 --get-server-output $3
    awk -v key="$key" -v seconds="$DUR" '
        /receiver/ { for (i = 1; i <= NF; i++) if ($i ~ /^[0-9]+\/[0-9]+$/) split($i, n, "/") }
        END { printf "%s_PPS=%d\n%s_LOST_PCT=%.2f\n", key, (n[2] - n[1]) / seconds,
                  key, n[2] ? n[1] * 100 / n[2] : 100 }' /tmp/measured
}
received() { host "awk -v tap=$TAP0: '\$1 == tap { print \$3 }' /proc/net/dev"; }
small_frames() { # from the kernel itself, to an address that the host drops early
    local control=/proc/net/pktgen mac line before after
    mac=$(ip neighbour show "$HOST_IP" dev "$IF" | sed -n 's/.*lladdr \([0-9a-f:]*\).*/\1/p')
    echo "add_device $IF" >$control/kpktgend_0 || fail "no pktgen"
    for line in "pkt_size 60" "count 0" "delay 0" "dst_mac $mac" "dst 198.18.0.1" \
        "src_min $GUEST_IP" "src_max $GUEST_IP" "udp_dst_min 9" "udp_dst_max 9"; do
        echo "$line" >$control/"$IF"
    done
    before=$(received)
    mark pktgen begin
    echo start >$control/pgctrl &
    sleep "$DUR"
    after=$(received)
    mark pktgen end
    echo stop >$control/pgctrl
    wait
    echo rem_device_all >$control/kpktgend_0
    kv PKTGEN_UP_PPS $(((after - before) / DUR))
}
if [ "$IDLE" != 0 ]; then
    sleep 2
    mark idle begin
    sleep "$IDLE"
    mark idle end
fi
for each in $TESTS; do
    case $each in
    ping)
        measured ping PING ping -q -c $((DUR * 20)) -i 0.05 "$HOST_IP"
        kv PING_RTT_AVG_MS "$(sed -n 's,.*= [0-9.]*/\([0-9.]*\)/.*,\1,p' /tmp/measured)"
        ;;
    tcp_up) tcp tcp_up TCP_UP "" ;;
    tcp_down) tcp tcp_down TCP_DOWN -R ;;
    udp_up) udp udp_up UDP_UP "-b 0" ;;
    udp_down) udp udp_down UDP_DOWN "-R -b $((RATE * 512))" ;;
    pktgen) small_frames ;;
    *) fail "no test $each" ;;
    esac
done
finish
