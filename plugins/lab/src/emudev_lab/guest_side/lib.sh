# Functions for guest scripts; every script and command has them.
# Variables: HOST_IP GUEST_IP HOST_IP6 GUEST_IP6 (of the first NIC), NIC_KIND, NIC_DRIVER, NIC_COUNT,
# TAP0 TAP1 ... (names on the host side), KERNEL.

# kv KEY VALUE: a result.
kv() { printf '%s=%s\n' "$1" "$2"; }
# fail TEXT: ends the script as failed.
fail() { kv FAIL "$*"; exit 1; }
# check KEY COMMAND...: a result KEY=ok or KEY=fail; what the command printed is shown if it failed.
FAILURES=0
check() {
    local key=$1
    shift
    if "$@" >/tmp/check 2>&1; then
        kv "$key" ok
    else
        kv "$key" fail
        sed 's/^/    /' /tmp/check | tail -n 20
        FAILURES=$((FAILURES + 1))
    fi
}
# finish: ends a script that used check.
finish() {
    kv FAILURES "$FAILURES"
    [ "$FAILURES" = 0 ]
    exit
}

# host COMMAND: runs it on the host side (in the namespace with the TAPs), prints its output, has its
# status. host_start NAME COMMAND and host_stop NAME: the same in the background.
# mark NAME begin|end: results CPU_NAME_QEMU_PCT and CPU_NAME_SERVER_PCT for the time in between.
request() {
    local line
    printf '\n@@%s\n' "$*" >/dev/ttyS1
    while IFS= read -r line </dev/ttyS1; do
        case $line in
        '@@DONE '*) return "${line#@@DONE }" ;;
        *) printf '%s\n' "$line" ;;
        esac
    done
    return 125
}
host() { request host "$@"; }
host_start() { request start "$@"; }
host_stop() { request stop "$1"; }
mark() { request mark "$1" "$2"; }

# until_true SECONDS COMMAND...: tries it every 0.1 s.
uptime_ms() { awk '{ printf "%d\n", $1 * 1000 }' /proc/uptime; }
until_true() {
    local end=$(($(uptime_ms) + $1 * 1000))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$(uptime_ms)" -ge "$end" ] && return 1
        sleep 0.1
    done
}

# nic_pci [N]: PCI address of NIC N (the first is 0). nic_if [N]: its network interface.
nic_pci() { printf '0000:00:%02x.0\n' $((4 + ${1:-0})); }
nic_if() {
    local path
    for path in /sys/bus/pci/devices/"$(nic_pci "$1")"/net/* \
        /sys/bus/pci/devices/"$(nic_pci "$1")"/virtio*/net/*; do
        [ -e "$path" ] && basename "$path" && return 0
    done
    return 1
}
carrier() { [ "$(cat /sys/class/net/"$1"/carrier 2>/dev/null)" = 1 ]; }
# nic_up [N]: waits for NIC N's interface, sets it up with its addresses, waits for the link. Sets IF.
nic_up() {
    local n=${1:-0} before between
    before=$(uptime_ms)
    until_true 20 nic_if "$n" || fail "no network interface of NIC $n"
    IF=$(nic_if "$n")
    between=$(uptime_ms)
    local ip=$GUEST_IP ip6=$GUEST_IP6
    [ "$n" = 0 ] || ip=192.168.$((77 + n)).2 ip6=fd77:$n::2
    ip address replace "$ip/24" dev "$IF" || fail "no IPv4 address on $IF"
    ip address replace "$ip6/64" dev "$IF" nodad || fail "no IPv6 address on $IF"
    ip link set "$IF" up || fail "$IF can't be set up"
    # A device keeps its link down until its data path is compiled, which takes a while the first time.
    until_true 60 carrier "$IF" || fail "$IF has no link"
    kv "NIC${n}_IF" "$IF"
    kv "NIC${n}_PROBE_MS" $((between - before))
    kv "NIC${n}_LINK_MS" $(($(uptime_ms) - between))
}
# bind_nic [N] [DRIVER]: takes NIC N from its driver and gives it to DRIVER, by default to the one for
# programs: vfio-pci behind an IOMMU, else uio_pci_generic. Sets BOUND to the driver that has it then.
bind_nic() {
    local pci path driver=$2
    pci=$(nic_pci "${1:-0}")
    path=/sys/bus/pci/devices/$pci
    [ -n "$driver" ] || { driver=uio_pci_generic && [ -e "$path/iommu_group" ] && driver=vfio-pci; }
    modprobe "$driver" || fail "no driver $driver"
    # By hand, since nobody in the guest answers the kernel's wish for it.
    [ "$driver" != vfio-pci ] || modprobe vfio_iommu_type1 || fail "no vfio_iommu_type1"
    [ ! -e "$path/driver" ] || echo "$pci" >"$path/driver/unbind"
    echo "$driver" >"$path/driver_override"
    echo "$pci" >/sys/bus/pci/drivers_probe
    BOUND=$(basename "$(readlink "$path/driver")")
    [ "$BOUND" = "$driver" ] || fail "$driver does not take $pci"
}
# huge_pages N: has N pages of 2 MiB, and a file system of them in /dev/hugepages.
huge_pages() {
    mkdir -p /dev/hugepages
    grep -q "^hugetlbfs " /proc/mounts || mount -t hugetlbfs hugetlbfs /dev/hugepages
    echo "$1" >/proc/sys/vm/nr_hugepages
    [ "$(cat /proc/sys/vm/nr_hugepages)" = "$1" ] || fail "no room for $1 huge pages"
}
# counter NAME [IF]: one of the interface's statistics.
counter() { cat /sys/class/net/"${2:-$IF}"/statistics/"$1"; }

# Byte-exact transfers, against the helper "transfer" on the host side:
# put BYTES [ADDRESS] sends random bytes, get BYTES [ADDRESS] receives; both compare checksums.
put() {
    local bytes=$1 address=${2:-$HOST_IP} want have
    [ "$(stat -c %s /tmp/put 2>/dev/null)" = "$bytes" ] || head -c "$bytes" /dev/urandom >/tmp/put
    want=$(sha256sum </tmp/put | cut -d ' ' -f 1)
    have=$( (echo "put $bytes" && cat /tmp/put) | timeout 20 nc "$address" 7000)
    [ "$have" = "$want" ] || { echo "sent $bytes bytes to $address: '$have' is not $want"; return 1; }
}
get() {
    local bytes=$1 address=${2:-$HOST_IP} want have
    want=$(echo "sum $bytes" | timeout 20 nc "$address" 7000)
    have=$(echo "get $bytes" | timeout 20 nc "$address" 7000 | sha256sum | cut -d ' ' -f 1)
    [ "$have" = "$want" ] || { echo "got $bytes bytes from $address: $have is not '$want'"; return 1; }
}
