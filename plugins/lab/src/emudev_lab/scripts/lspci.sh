# What the guest sees on its PCI bus; no driver is loaded.
# guest: nodriver
# guest: timeout 60
pci=$(nic_pci)
lspci -nn 2>/dev/null
kv PCI_ID "$(lspci -n -s "$pci" 2>/dev/null | cut -d ' ' -f 3)"
echo "--- lspci -vvv -xxxx"
lspci -vvv -xxxx -s "$pci" 2>/dev/null
check PRESENT [ -e /sys/bus/pci/devices/"$pci" ]
finish
