#!/bin/bash
# Two hosts on one machine: network namespaces with an address, a host name and a link of their own, and one disk.
# usage: two-hosts-up.sh        as root; again: the same hosts, anew
#   ple-a 10.77.0.1 (interface pla) -- ple-b 10.77.0.2 (interface plb)
# Then: on-host.sh ple-a COMMAND...; a cut link: ip -n ple-b link set plb down; the end: two-hosts-down.sh
set -eu
"$(dirname "$0")/two-hosts-down.sh"
for h in ple-a ple-b; do ip netns add $h; ip -n $h link set lo up; done
ip link add pla netns ple-a type veth peer name plb netns ple-b
ip -n ple-a addr add 10.77.0.1/24 dev pla; ip -n ple-b addr add 10.77.0.2/24 dev plb
ip -n ple-a link set pla up; ip -n ple-b link set plb up
for h in ple-a ple-b; do
  mkdir -p /etc/netns/$h
  printf '127.0.0.1 localhost\n10.77.0.1 ple-a\n10.77.0.2 ple-b\n' > /etc/netns/$h/hosts
done
