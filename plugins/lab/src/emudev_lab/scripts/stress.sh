# Everything of the first NIC changed, and changed back, while nothing goes on and with frames both ways:
# after each step the link has to come up and carry pings. Needs the TAP on the host's side.
# Variables: PARTS (all), BUSY_PARTS (those that make sense with traffic; "none"), TIMES (1: how often a
# part repeats itself), LIMIT (0: seconds after which no further part begins; 0 is none)
# guest: helpers iperf3 transfer
# guest: modules 8021q
# guest: smp 2
# guest: timeout 600
# guest: strict
# guest: expect NIC Link is Down
# guest: expect (?:entered|left) (?:promiscuous|allmulticast) mode
# guest: expect (?:Entering|Leaving) (?:promiscuous|multicast promiscuous|allmulti).*
# guest: expect Removing device
# guest: expect Hardware reset detected
# guest: expect Scheduling reset task
# guest: expect Disabling VLAN stripping as FCS/CRC stripping is also disabled.*
ALL="updown reload rebind mtu rings channels offloads address filters vlans tap"
PARTS=${PARTS:-$ALL} BUSY_PARTS=${BUSY_PARTS:-updown mtu rings channels address filters tap}
TIMES=${TIMES:-1} LIMIT=${LIMIT:-0}
nic_up
SLOT=$(nic_pci)
NODE=/sys/bus/pci/devices/$SLOT
BEGUN=$(uptime_ms)
STATE=idle

# ---- A step: something is changed, then the link works, or the step is told.
works() {
    until_true 20 carrier "$IF" || { echo "no carrier"; return 1; }
    until_true 20 ping -q -c 1 -W 1 "$HOST_IP" || { echo "no answer to a ping"; return 1; }
    # With the processors busy, an answer may be late; it may not be missing again and again.
    until_true 10 lossless || { echo "answers are missing"; return 1; }
}
lossless() { ping -q -c 3 -i 0.05 -W 2 "$@" "$HOST_IP" | grep -q ' 0% packet loss'; }
step() { # step NAME COMMAND...
    local name=$1 why
    shift
    STEPS=$((STEPS + 1))
    "$@" >/tmp/step 2>&1 || { wrong "$name: $(tail -n 2 /tmp/step)"; return 1; }
    why=$(works) || { wrong "$name: $why"; return 1; }
}
wrong() {
    WRONG=$((WRONG + 1))
    echo "$STATE $PART: $*"
}
addressed() { # addresses go with the link or the interface
    ip address replace "$GUEST_IP/24" dev "$IF" && ip address replace "$GUEST_IP6/64" dev "$IF" nodad
}
found() { # after the driver came: its interface, with addresses, up
    until_true 30 nic_if || { echo "no interface"; return 1; }
    IF=$(nic_if)
    addressed && ip link set "$IF" up
}
part() { # part NAME: runs it; results of its steps and time
    local begun now key
    PART=$1 STEPS=0 WRONG=0
    now=$(uptime_ms)
    if [ "$LIMIT" != 0 ] && [ $((now - BEGUN)) -gt $((LIMIT * 1000)) ]; then
        LEFT_OUT="$LEFT_OUT $STATE:$PART"
        return
    fi
    for _ in $(seq "$TIMES"); do "change_$PART"; done
    key=$(echo "${STATE}_$PART" | tr a-z A-Z)
    kv "${key}_STEPS" "$STEPS"
    kv "${key}_MS" $(($(uptime_ms) - now))
    check "$key" [ "$WRONG" = 0 ]
}

# ---- The parts.
change_updown() {
    local round
    for round in 1 2 3 4 5; do step "up $round" bounce; done
    # Quicker than the driver can set anything up.
    step "a burst of ups and downs" bounces 25
}
bounce() { ip link set "$IF" down && ip link set "$IF" up && addressed; }
bounces() {
    for _ in $(seq "$1"); do ip link set "$IF" down && ip link set "$IF" up || return 1; done
    addressed
}
change_reload() {
    local round
    for round in 1 2 3; do step "load $round" again; done
}
again() { modprobe -r "$NIC_DRIVER" && modprobe "$NIC_DRIVER" && found; }
change_rebind() {
    local round
    for round in 1 2; do
        step "bind $round" rebound
        step "bind $round, reset between" rebound reset
    done
    # A reset under a running driver: Linux sees it within some seconds.
    step "reset in use" reset_in_use
}
rebound() {
    local driver
    driver=$(readlink -f "$NODE/driver")
    echo "$SLOT" >"$driver/unbind" || return 1
    [ "$1" != reset ] || [ ! -e "$NODE/reset" ] || echo 1 >"$NODE/reset" || return 1
    echo "$SLOT" >"$driver/bind" && found
}
reset_in_use() {
    [ -e "$NODE/reset" ] || return 0
    echo 1 >"$NODE/reset" && sleep 4
}
change_mtu() {
    local mtu
    for mtu in 576 9000 1280 1501 4000 2048 1500; do
        step "mtu $mtu" ip link set "$IF" mtu "$mtu" || continue
        until_true 10 lossless -M do -s $((mtu - 28)) || wrong "mtu $mtu: a full frame is not answered"
    done
    addressed # an MTU below 1280 takes IPv6 away
}
# most OPTION NAME, present OPTION NAME: what `ethtool OPTION` says of a ring or a channel.
most() { ethtool "$1" "$IF" 2>/dev/null | awk -v name="$2:" '$1 == name { print $2; exit }'; }
present() { ethtool "$1" "$IF" 2>/dev/null | awk -v name="$2:" '$1 == name { last = $2 } END { print last }'; }
change_rings() {
    local sizes rx tx
    for sizes in 64:64 4096:4096 96:2048 1024:128 256:256 512:512; do
        rx=${sizes%:*} tx=${sizes#*:}
        [ "$rx" -le "$(most -g RX || echo 0)" ] && [ "$tx" -le "$(most -g TX || echo 0)" ] || continue
        [ "$(present -g RX):$(present -g TX)" != "$sizes" ] || continue
        step "rings of $rx and $tx" ethtool -G "$IF" rx "$rx" tx "$tx"
    done
}
change_channels() {
    local limit count
    limit=$(most -l Combined)
    case $limit in '' | *[!0-9]*) return ;; esac
    [ "$limit" -le "$(nproc)" ] || limit=$(nproc)
    for count in 1 "$limit" 1 2 "$limit"; do
        [ "$count" -le "$limit" ] && [ "$count" != "$(present -l Combined)" ] || continue
        step "$count channels" ethtool -L "$IF" combined "$count"
    done
}
change_offloads() {
    local feature was
    for feature in tcp-segmentation-offload generic-segmentation-offload tx-checksumming rx-checksumming \
        scatter-gather generic-receive-offload receive-hashing rx-vlan-offload tx-vlan-offload \
        tx-udp-segmentation rx-fcs; do
        was=$(ethtool -k "$IF" | awk -v name="$feature:" '$1 == name && $3 != "[fixed]" { print $2 }')
        [ -n "$was" ] || continue
        # Offloads hang together: the driver may keep one on that another needs.
        step "$feature changed" ethtool -K "$IF" $feature "$([ "$was" = on ] && echo off || echo on)"
        exact "$feature changed"
        step "$feature back" ethtool -K "$IF" $feature "$was"
        exact "$feature back"
    done
}
exact() { { put 500000 && get 500000; } >/tmp/step 2>&1 || wrong "$1: $(tail -n 1 /tmp/step)"; }
change_address() {
    local own new
    own=$(cat /sys/class/net/"$IF"/address)
    for new in 02:00:00:00:51:01 02:00:00:00:51:02 "$own"; do
        step "address $new" ip link set "$IF" address "$new" || continue
        # The host forgets the old one and has to reach the new.
        host "ip neighbour flush dev $TAP0; ping -q -c 3 -i 0.2 -W 2 $GUEST_IP" >/tmp/step ||
            wrong "address $new: not reached"
    done
    ip link set "$IF" down
    ip link set "$IF" address 02:00:00:00:51:03
    step "address while down" bounce
    ip link set "$IF" address "$own"
    host "ip neighbour flush dev $TAP0" >/dev/null
    step "own address" works
}
change_filters() {
    local mode number
    for mode in promisc allmulticast; do
        for _ in 1 2; do
            step "$mode on" ip link set "$IF" $mode on
            step "$mode off" ip link set "$IF" $mode off
        done
    done
    # As many groups as a busy host joins: more than one message has room for.
    for number in $(seq 120); do ip maddress add "$(group "$number")" dev "$IF" || wrong "group $number"; done
    step "120 groups" true
    for number in $(seq 120); do ip maddress del "$(group "$number")" dev "$IF"; done
    step "no groups" true
}
group() { printf '33:33:00:77:00:%02x\n' "$1"; }
change_vlans() {
    local id
    modprobe 8021q || { wrong "no 8021q"; return; }
    for id in 1 77 4094; do
        STEPS=$((STEPS + 1))
        host_start tagged "python3 -P -m emudev_lab.tagged_host $TAP0 --vlan $id --address 192.168.177.1"
        ip link add link "$IF" name tagged type vlan id $id && ip link set tagged up &&
            ip address add 192.168.177.2/24 dev tagged || wrong "vlan $id"
        until_true 10 ping -q -c 1 -W 1 192.168.177.1 || wrong "vlan $id: no answer"
        ping -q -c 3 -i 0.1 -W 3 -M do -s 1472 192.168.177.1 | grep -q ' 0% packet loss' ||
            wrong "vlan $id: a full frame is not answered"
        # Somebody else's tag is not ours.
        ip link set tagged down && ip link del tagged
        host_stop tagged >/dev/null
    done
    for id in $(seq 1000 1069); do ip link add link "$IF" name "vlan$id" type vlan id "$id" || wrong "vlan $id"; done
    step "70 vlans" true
    # They are the driver's to put back after a reset.
    step "70 vlans and a change of rings" ethtool -G "$IF" rx 1024
    for id in $(seq 1000 1069); do ip link del "vlan$id"; done
    step "no vlans" ethtool -G "$IF" rx 512
}
change_tap() { # the other end goes away and comes back
    local round
    for round in 1 2 3; do step "tap $round" flap 0.3; done
    step "tap, at once" flap 0
}
flap() {
    host "ip link set $TAP0 down; sleep $1; ip link set $TAP0 up" &&
        host "ip address replace $HOST_IP/24 dev $TAP0; ip address replace $HOST_IP6/64 dev $TAP0 nodad"
}

# ---- Traffic: TCP both ways, begun again whenever a change has cut it off.
traffic() {
    local way
    for way in "-p 5201" "-p 5202 -R"; do
        # shellcheck disable=SC2086
        while :; do
            iperf3 -c "$HOST_IP" $way -t 30 -b 100M -i 0 --connect-timeout 2000
            sleep 0.3
        done >/dev/null 2>&1 &
        TRAFFIC="$TRAFFIC $!"
    done
}
silence() {
    local each
    for each in $TRAFFIC; do
        kill "$each"
        wait "$each"
    done 2>/dev/null
    for each in $(pidof iperf3); do kill "$each"; done
    sleep 0.5
}

for each in $PARTS; do part "$each"; done
if [ "$BUSY_PARTS" != none ]; then
    STATE=busy
    traffic
    sleep 1
    for each in $BUSY_PARTS; do part "$each"; done
    silence
fi
[ -z "$LEFT_OUT" ] || kv LEFT_OUT "${LEFT_OUT# }"
PART=end STATE=idle
check PINGS ping -q -c 20 -i 0.05 -W 2 "$HOST_IP"
check PUT put 2000000
check GET get 2000000
check CHECKSUMS awk '/^Tcp:/ { errors = $NF } END { exit errors != 0 }' /proc/net/snmp
kv RX_ERRORS "$(counter rx_errors)"
kv TX_ERRORS "$(counter tx_errors)"
kv RX_DROPPED "$(counter rx_dropped)"
kv TX_DROPPED "$(counter tx_dropped)"
finish
