#!/bin/bash
# usage: two-hosts-down.sh      removes what two-hosts-up.sh made, with every process of those hosts
for h in ple-a ple-b; do
  [ -e /run/netns/$h ] || continue
  for p in $(ip netns pids $h); do kill -9 "$p" 2>/dev/null; done
  ip netns del $h
  rm -rf /etc/netns/$h
done
true
