# DPDK's testpmd in the guest, on the first NIC: it answers pings, sends, receives, and its port stops
# and starts. With an IOMMU (--iommu) through vfio-pci; without one through uio_pci_generic, which has
# no interrupts for iavf: the device has to make the driver poll its mailbox (no WB_ON_ITR in caps=).
# Variables: DUR (3 s of each direction), QUEUES (1), RATE (50000 frames a second offered), TESTS (all)
# guest: programs dpdk-testpmd /usr/lib/x86_64-linux-gnu/dpdk/pmds-*/*.so.*
# guest: modules vfio-pci vfio_iommu_type1 uio_pci_generic
# guest: nodriver
# guest: mem 768
# guest: smp 2
# guest: timeout 240
DUR=${DUR:-3} QUEUES=${QUEUES:-1} RATE=${RATE:-50000} TESTS=${TESTS:-echo restart send receive}
HUGE=96        # pages of 2 MiB
BUFFERS=16384  # of 2176 bytes

bind_nic 0
kv DRIVER "$BOUND"
huge_pages $HUGE

# A testpmd runs between pmd_start and pmd_end; its prompt reads the named pipe that is open as 8.
pmd_start() { # pmd_start MODE [OPTIONS...]
    local mode=$1
    shift
    rm -f /tmp/prompt
    mkfifo /tmp/prompt
    dpdk-testpmd -l 0,1 -n 1 -a "$(nic_pci)" --huge-dir /dev/hugepages --no-telemetry \
        --log-level=pmd.net.iavf:notice -- -i --forward-mode="$mode" --nb-cores=1 \
        --rxq="$QUEUES" --txq="$QUEUES" --total-num-mbufs=$BUFFERS --mbuf-size=2176 \
        --no-lsc-interrupt --no-rmv-interrupt "$@" </tmp/prompt >/tmp/testpmd 2>&1 &
    PMD=$!
    exec 8>/tmp/prompt
    until_true 60 prompted || { tail -n 30 /tmp/testpmd; fail "no prompt of testpmd"; }
    ! ended "$PMD" || { tail -n 30 /tmp/testpmd; fail "testpmd ends at once"; }
    pmd start
}
pmd() { # pmd COMMAND...: gives it to the prompt, and time to do it
    echo "$*" >&8
    sleep 0.3
}
pmd_end() { # pmd_end KEY: ends it; what it printed is complete only then, since it is buffered
    pmd stop
    pmd quit
    exec 8>&-
    until_true 15 ended "$PMD" || { kill -9 "$PMD"; echo "testpmd does not end"; }
    check "${1}_END" wait "$PMD"
    # What iavf says when the device owes it an answer, or refuses what it may ask for.
    check "${1}_SILENT" silent
}
prompted() { ended "$PMD" || grep -q '^testpmd> ' /tmp/testpmd; }
ended() { ! kill -0 "$1" 2>/dev/null; }
silent() { ! grep -E 'No response|[Ff]ailed|iavf_[a-z_]*\(\): .*([Ee]rror|[Ff]ail)' /tmp/testpmd; }
told() { sed -n "s/.*$1: *\([0-9a-fA-F:]*\).*/\1/p" /tmp/testpmd | tail -n 1; }
arrived() { host "awk -v tap=$TAP0: '\$1 == tap { print \$3 }' /proc/net/dev"; }
lossless() { host "ping -q -c $1 -i 0.02 -W 2 -s $2 $GUEST_IP" >/tmp/pings && grep ' 0% packet loss' /tmp/pings; }
average() { kv "$1" "$(sed -n 's,^rtt.*= [0-9.]*/\([0-9.]*\)/.*,\1,p' /tmp/pings)"; }

try_echo() {
    pmd_start icmpecho
    pmd show port info 0
    until_true 10 host "ping -q -c 1 -W 1 $GUEST_IP" || echo "no first answer"
    check ECHO lossless 100 56
    average ECHO_RTT_AVG_MS
    check ECHO_1472 lossless 20 1472
    pmd_end ECHO
    MAC=$(told 'MAC address')
    kv MAC "$MAC"
    kv PMD "$(sed -n 's/^Driver name: //p' /tmp/testpmd)"
}
try_restart() { # with frames on their way: a flood goes on while the port stops and starts
    pmd_start icmpecho
    host_start flood "ping -q -i 0.002 $GUEST_IP"
    for round in 1 2 3; do
        pmd stop
        pmd port stop 0
        pmd port start 0
        pmd start
    done
    until_true 10 host "ping -q -c 1 -W 1 $GUEST_IP" || echo "no answer after a restart"
    check RESTART lossless 50 56
    host_stop flood >/dev/null
    # A reset of the port is a reset of the device: everything is set up anew.
    pmd stop
    pmd port stop 0
    pmd port reset 0
    sleep 1
    pmd port start 0
    pmd start
    until_true 10 host "ping -q -c 1 -W 1 $GUEST_IP" || echo "no answer after a reset"
    check RESET lossless 20 56
    pmd_end RESTART
}
try_send() {
    local before after
    pmd_start txonly --txpkts=60
    sleep 1
    before=$(arrived)
    mark send begin
    sleep "$DUR"
    mark send end
    after=$(arrived)
    kv SEND_PPS $(((after - before) / DUR))
    check SEND [ $((after - before)) -gt $((DUR * 1000)) ]
    pmd_end SEND
}
try_receive() {
    local sent got
    pmd_start rxonly
    until_true 10 grep -q 'Link status: up\|testpmd> ' /tmp/testpmd
    pmd clear port stats 0
    mark receive begin
    sent=$(host "python3 -P -m emudev_lab.blast $TAP0 --rate $RATE --seconds $DUR")
    mark receive end
    sleep 0.5
    pmd show port stats 0
    pmd_end RECEIVE
    got=$(told RX-packets)
    kv RECEIVE_OFFERED "$sent"
    kv RECEIVE_PPS $((${got:-0} / DUR))
    kv RECEIVE_MISSED "$(told RX-missed)"
    check RECEIVE [ "${got:-0}" -gt $((DUR * 1000)) ]
}
for each in $TESTS; do
    case $each in
    echo | restart | send | receive) "try_$each" ;;
    *) fail "no test $each" ;;
    esac
done
finish
