#!/bin/bash
# A real S3 server on one machine: Ceph's monitor, an OSD in memory, and its gateway on 127.0.0.1:7481. As root, on Debian.
# Prints the environment to export. ceph-s3-down.sh ends it.
set -eu
command -v radosgw >/dev/null && command -v ceph >/dev/null || { apt-get update -q && apt-get install -y -q --no-install-recommends ceph-mon ceph-osd radosgw ceph-common; } >&2
S=${CEPH_ROOT:-/tmp/ple-ceph}; rm -rf "$S"; mkdir -p "$S"/{mon,osd,rgw,run,log}
F=$(cat /proc/sys/kernel/random/uuid)
cat > "$S/ceph.conf" <<C
[global]
fsid = $F
mon host = v2:127.0.0.1:13300
public network = 127.0.0.0/8
ms bind ipv6 = false
ms mon client mode = crc secure
ms mon service mode = crc secure
auth cluster required = none
auth service required = none
auth client required = none
mon data avail warn = 5
mon max pg per osd = 1000
mon allow pool size one = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
osd class dir = /usr/lib/x86_64-linux-gnu/rados-classes
osd max object name len = 1024
rgw frontends = beast endpoint=127.0.0.1:7481
rgw run sync thread = false
run dir = $S/run
pid file = $S/run/\$name.pid
admin socket = $S/run/\$name.asok
log file = $S/log/\$name.log
mon data = $S/mon
osd data = $S/osd
rgw data = $S/rgw
C
C="-c $S/ceph.conf"
monmaptool --create --clobber --fsid "$F" --addv a '[v2:127.0.0.1:13300]' "$S/run/monmap" >/dev/null
ceph-mon $C -i a --mkfs --monmap "$S/run/monmap"; ceph-mon $C -i a; sleep 2
U=$(cat /proc/sys/kernel/random/uuid); I=$(timeout 20 ceph $C osd create "$U" 2>/dev/null)
ceph-osd $C -i "$I" --mkfs --osd-uuid "$U" >/dev/null 2>&1; ceph-osd $C -i "$I" >/dev/null 2>&1
for i in $(seq 60); do timeout 10 ceph $C osd stat 2>/dev/null | grep -q '1 up' && break; sleep .3; done
setsid radosgw -f $C -n client.rgw >"$S/log/rgw.out" 2>&1 & echo $! > "$S/run/rgw.pid"
for i in $(seq 200); do (exec 3<>/dev/tcp/127.0.0.1/7481) 2>/dev/null && break; sleep .2; done
radosgw-admin $C user create --uid=test --display-name=test --access-key=test --secret-key=testtest >/dev/null 2>&1
echo "export AWS_ENDPOINT_URL=http://127.0.0.1:7481 AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=testtest AWS_DEFAULT_REGION=us-east-1"
