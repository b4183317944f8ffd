#!/bin/bash
# usage: on-host.sh ple-a|ple-b COMMAND...      runs COMMAND on that host of two-hosts-up.sh; gloo takes its interface
set -eu
h=$1; shift
exec ip netns exec "$h" unshare --uts sh -c 'hostname "$0"; export GLOO_SOCKET_IFNAME=$1; shift; exec "$@"' \
  "$h" "pl${h#ple-}" "$@"
