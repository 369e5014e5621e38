"""A SLURM of one node on this machine, for a test: munged, slurmctld and slurmd of its own, in a folder of its own.

``python tests/reproduction/slurm_node.py`` installs what is needed on Debian and its kin, as root.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time

DAEMONS = ("munged", "slurmctld", "slurmd")
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")

CONF = """
ClusterName=tests
SlurmctldHost={host}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=30
MinJobAge=3600
SchedulerParameters=sched_interval=2,bf_interval=2,default_queue_depth=100
NodeName={host} CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """What keeps this machine from running one; empty if nothing does."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    lacking = [name for name in (*DAEMONS, "sbatch") if shutil.which(name, path=path) is None]
    if lacking:
        return f"{', '.join(lacking)} missing; as root: python tests/reproduction/slurm_node.py"
    return "" if os.geteuid() == 0 else "its daemons must be started by root"


def install():
    """Install the daemons; none is started."""
    subprocess.run(["apt-get", "update"], check=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    command = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
    subprocess.run(command, env=environment, check=True)


@contextlib.contextmanager
def slurm(folder, cpus=4):
    """While entered, ``sbatch`` and its kin find the node by the environment's SLURM_CONF."""
    host = socket.gethostname().partition(".")[0]
    folder.mkdir(parents=True)
    os.chmod(folder, 0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("", 0))
            ports.append(free.getsockname()[1])
    (folder / "slurm.conf").write_text(CONF.format(host=host, folder=folder, ports=ports, cpus=cpus))
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(256))
    key.chmod(0o400)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin")),
        "SLURM_CONF": str(folder / "slurm.conf"),
    }
    named = [f"--{name}-file={folder}/munge.{end}" for name, end in (("key", "key"), ("pid", "pid"), ("log", "log"))]
    daemons = [
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--seed-file={folder}/seed", *named],
        ["slurmctld", "-D", "-i"],
        ["slurmd", "-D", "-N", host],
    ]
    running = []
    before = os.environ.get("SLURM_CONF")
    try:
        for command in daemons:
            with open(folder / f"{command[0]}.out", "wb") as out:
                running.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
            if command[0] == "munged":
                _wait(lambda: (folder / "munge.socket").exists(), running, folder)
        os.environ["SLURM_CONF"] = environment["SLURM_CONF"]
        _wait(lambda: "idle" in _said("sinfo", "-h", "-o", "%T"), running, folder)
        yield
    finally:
        with contextlib.suppress(subprocess.SubprocessError):
            subprocess.run(["scancel", "--full", "--user", "root"], env=environment, capture_output=True, timeout=10)
        for process in reversed(running):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


def _said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _wait(until, running, folder):
    end = time.monotonic() + 60
    while not until():
        dead = [process.args[0] for process in running if process.poll() is not None]
        if dead or time.monotonic() > end:
            logs = "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in folder.glob("*.out"))
            raise RuntimeError(f"{dead or 'the node'} did not start\n{logs}")
        time.sleep(0.2)


if __name__ == "__main__":
    install()
    sys.exit(missing())
