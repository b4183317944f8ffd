#!/bin/bash
# Stops only what ceph-s3-up.sh started, by its configuration, and waits until the monitor's port is free.
S=${CEPH_ROOT:-/tmp/ple-ceph}
pkill -9 -f -- "-c $S/ceph.conf"
for i in $(seq 50); do (exec 3<>/dev/tcp/127.0.0.1/13300) 2>/dev/null || break; sleep .1; done
true
