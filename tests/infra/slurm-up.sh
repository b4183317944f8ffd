#!/bin/bash
# A real Slurm on one machine: munge, MariaDB, slurmdbd, slurmctld and two nodes, n1 and n2, on loopback.
# usage: slurm-up.sh        as root, on Debian; no systemd, no cgroups
#   prints the environment of a client: export SLURM_CONF=...; log and state below $SLURM_ROOT (/tmp/ple-slurm)
# Accounting is on, since TorchX asks sacct for a job's state. The end: slurm-down.sh
set -eu
S=${SLURM_ROOT:-/tmp/ple-slurm}
H=$(hostname -s)
"$(dirname "$0")/slurm-down.sh"
rm -rf "$S"; mkdir -p "$S"/{state,log,spool}; chmod 755 "$S"
exec 3>&1 4>&2 >"$S/log/up.log" 2>&1
trap 'r=$?; [ $r = 0 ] || tail -n 5 "$S/log/up.log" >&4; exit $r' EXIT
daemon() { "$@" 3>&- 4>&-; }  # which would keep a reader of this script's output waiting
packages="slurm-wlm munge slurmdbd mariadb-server slurm-wlm-mysql-plugin"
command -v slurmctld slurmdbd mariadbd munged >/dev/null ||
  { apt-get update -q && apt-get install -y -q --no-install-recommends $packages; }
# Nodes have the address of the machine, or torchrun takes neither for the host of the rendezvous.
echo '127.0.0.1 n1 n2' >> /etc/hosts
install -d -o munge -g munge -m 0755 /run/munge
install -d -o munge -g munge -m 0700 /var/log/munge /var/lib/munge
if ! munge -n >/dev/null 2>&1; then
  daemon runuser -u munge -- /usr/sbin/munged
  cp /run/munge/munged.pid "$S/munged.pid"
fi
munge -n | unmunge >/dev/null
install -d -o mysql -g mysql "$S/db"
sql=$S/db/sock
mariadb-install-db --no-defaults --user=mysql --datadir="$S/db" --auth-root-authentication-method=socket \
  --skip-test-db > "$S/log/install-db.log" 2>&1
setsid mariadbd --no-defaults --user=mysql --datadir="$S/db" --socket="$sql" --pid-file="$S/db/mariadb.pid" \
  --skip-networking --innodb-buffer-pool-size=128M --innodb-log-file-size=64M --innodb-lock-wait-timeout=900 \
  --innodb-flush-log-at-trx-commit=0 > "$S/log/mariadb.log" 2>&1 3>&- 4>&- &
for _ in $(seq 200); do mariadb-admin --no-defaults --socket="$sql" ping >/dev/null 2>&1 && break; sleep .1; done
# slurmdbd fails for good where its first connection finds no database, so it is made here.
mariadb --no-defaults --socket="$sql" -e "create database if not exists slurm_acct_db"
cat > "$S/slurmdbd.conf" <<C
AuthType=auth/munge
DbdHost=localhost
DbdPort=16819
SlurmUser=root
PidFile=$S/slurmdbd.pid
LogFile=$S/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
C
chmod 600 "$S/slurmdbd.conf"
# cred_expire: a job that is requeued waits until its credentials have expired, by default two minutes.
cat > "$S/slurm.conf" <<C
ClusterName=ple
SlurmctldHost=$H(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=cred_expire=15
StateSaveLocation=$S/state
SlurmdSpoolDir=$S/spool/%n
SlurmctldPidFile=$S/slurmctld.pid
SlurmdPidFile=$S/slurmd-%n.pid
SlurmctldLogFile=$S/log/slurmctld.log
SlurmdLogFile=$S/log/slurmd-%n.log
SlurmctldPort=16817
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=16819
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=15
SlurmctldTimeout=30
InactiveLimit=0
KillWait=30
MinJobAge=600
NodeName=n1 NodeHostname=$H NodeAddr=127.0.0.1 Port=17001 CPUs=2 RealMemory=16000
NodeName=n2 NodeHostname=$H NodeAddr=127.0.0.1 Port=17002 CPUs=2 RealMemory=16000
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=30 State=UP
C
echo "CgroupPlugin=disabled" > "$S/cgroup.conf"
export SLURM_CONF=$S/slurm.conf
# slurmdbd reads slurmdbd.conf beside SLURM_CONF, and the socket's place from MariaDB's variable.
MYSQL_UNIX_PORT=$sql daemon slurmdbd
for _ in $(seq 100); do sacctmgr -n show cluster >/dev/null 2>&1 && break; sleep .1; done
sacctmgr -i add cluster ple >/dev/null 2>&1 || true
daemon slurmctld
daemon slurmd -N n1
daemon slurmd -N n2
for _ in $(seq 100); do [ "$(sinfo -h -p debug -t idle -o %D 2>/dev/null)" = 2 ] && break; sleep .1; done
sinfo
[ "$(sinfo -h -p debug -t idle -o %D)" = 2 ]
echo "export SLURM_CONF=$SLURM_CONF" >&3
