#!/bin/bash
# usage: slurm-down.sh      stops what slurm-up.sh started, by pid file, and takes its nodes out of /etc/hosts
S=${SLURM_ROOT:-/tmp/ple-slurm}
for f in "$S"/slurmd-n1.pid "$S"/slurmd-n2.pid "$S"/slurmctld.pid "$S"/slurmdbd.pid "$S"/db/mariadb.pid "$S"/munged.pid; do
  [ -f "$f" ] || continue
  p=$(cat "$f"); kill "$p" 2>/dev/null || continue
  for _ in $(seq 50); do kill -0 "$p" 2>/dev/null || break; sleep .1; done
done
sed '/^127.0.0.1 n1 n2$/d' /etc/hosts > "/tmp/hosts.$$" && cat "/tmp/hosts.$$" > /etc/hosts; rm -f "/tmp/hosts.$$"
true
