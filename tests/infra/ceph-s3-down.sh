#!/bin/bash
# Stops only what ceph-s3-up.sh started, by pid file.
S=${CEPH_ROOT:-/tmp/ple-ceph}
for f in "$S"/run/rgw.pid "$S"/run/osd.*.pid "$S"/run/mon.a.pid; do [ -f "$f" ] && kill -9 "$(cat "$f")" 2>/dev/null; done; true
