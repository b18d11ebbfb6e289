# What the NIC can carry: round trips both ways, a flood of pings, TCP and UDP both ways, small frames up.
# Variables: DUR (5 s each), TESTS (all), IDLE (0 s), STREAMS (1), RATE (packets offered a second to udp64_down)
# guest: helpers iperf3
# guest: load pktgen
# guest: timeout 300
DUR=${DUR:-5} IDLE=${IDLE:-0} STREAMS=${STREAMS:-1} RATE=${RATE:-100000}
TESTS=${TESTS:-ping host_ping flood tcp_up tcp_down udp64_up udp1400_up udp64_down udp64_down_max pktgen}
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
udp() { # NAME KEY SIZE ARGUMENTS
    local key=$2
    # shellcheck disable=SC2086
    measured "$1" "$key" iperf3 -c "$HOST_IP" -u -t "$DUR" -l "$3" -f m -i 0 --get-server-output $4
    awk -v key="$key" -v seconds="$DUR" '
        /receiver/ { for (i = 1; i <= NF; i++) if ($i ~ /^[0-9]+\/[0-9]+$/) split($i, n, "/") }
        END { printf "%s_PPS=%d\n%s_LOST_PCT=%.2f\n", key, (n[2] - n[1]) / seconds,
                  key, n[2] ? n[1] * 100 / n[2] : 100 }' /tmp/measured
}
# The highest rate of small datagrams from the host of which at most one in a hundred is lost. Each
# rate has two tries: a guest that is emulated loses some while it meets code for the first time.
udp_down_max() {
    local rate=4000 best=0 got try
    while [ $rate -lt 200000 ]; do
        for try in 1 2; do
            iperf3 -c "$HOST_IP" -u -t 2 -l 64 -b $((rate * 512)) -f m -i 0 -R >/tmp/measured 2>&1
            got=$(awk '/receiver/ { for (i = 1; i <= NF; i++) if ($i ~ /^[0-9]+\/[0-9]+$/) split($i, n, "/") }
                END { if (n[2] && n[1] * 100 <= n[2]) print int((n[2] - n[1]) / 2) }' /tmp/measured)
            [ -z "$got" ] || break
        done
        [ -n "$got" ] || break
        best=$got
        rate=$((rate * 6 / 5))
    done
    kv UDP64_DOWN_MAX_PPS "$best"
}
average() { sed -n 's,.*= [0-9.]*/\([0-9.]*\)/.*,\1,p' "$@"; }
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
        kv PING_RTT_AVG_MS "$(average /tmp/measured)"
        ;;
    host_ping)
        kv HOST_PING_RTT_AVG_MS "$(host "ping -q -c $((DUR * 20)) -i 0.05 $GUEST_IP" | average)"
        ;;
    flood)
        began=$(uptime_ms)
        measured flood FLOOD ping -q -f -c 2000 "$HOST_IP"
        kv FLOOD_PER_S $((2000 * 1000 / ($(uptime_ms) - began + 1)))
        ;;
    tcp_up) tcp tcp_up TCP_UP "" ;;
    tcp_down) tcp tcp_down TCP_DOWN -R ;;
    udp64_up) udp udp64_up UDP64_UP 64 "-b 0" ;;
    udp1400_up) udp udp1400_up UDP1400_UP 1400 "-b 0" ;;
    udp64_down) udp udp64_down UDP64_DOWN 64 "-R -b $((RATE * 512))" ;;
    udp64_down_max) udp_down_max ;;
    pktgen) small_frames ;;
    *) fail "no test $each" ;;
    esac
done
finish
