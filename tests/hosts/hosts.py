"""Hosts of our own on one machine: network namespaces on a bridge, each with its own sshd.

A host has its own network, processes, hostname, home, /tmp/ray and /dev/shm, and sees nothing of
the other hosts' files. The system and the virtual environment are shared, read-only in use:
installing seven gigabytes per host would test pip, not us.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SETUP = """\
set -eu
mount --bind {own} {seen}
mount -t tmpfs -o mode=700 hidden {others}
mkdir -p /tmp/ray
mount --bind {seen}/tmp-ray /tmp/ray
mount -t tmpfs -o mode=1777,size=1g shm /dev/shm
mount --bind {seen}/passwd /etc/passwd
mount --bind {venv} {seen}/home/loqua/.venv
mount -o remount,bind,ro {seen}/home/loqua/.venv
hostname {name}
ip link set lo up
exec /usr/sbin/sshd -D -e -f {seen}/sshd_config
"""
SSHD = """\
ListenAddress {address}
HostKey {seen}/host_key
AuthorizedKeysFile {seen}/authorized_keys
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
Subsystem sftp internal-sftp
"""


def run(*command: str, check: bool = True) -> None:
    """Run a command quietly."""
    subprocess.run(command, check=check, capture_output=True, text=True)


@dataclass(frozen=True)
class Host:
    """One host; `files` is its part of the file system, seen from outside."""

    name: str
    address: str
    files: Path
    process: subprocess.Popen[bytes]

    @property
    def home(self) -> Path:
        """Its user's home, seen from outside."""
        return self.files / "home"


class Hosts:
    """Hosts on a bridge; `with` makes and removes them."""

    def __init__(self, folder: Path, venv: Path, count: int) -> None:
        """Choose names and addresses; nothing is made yet."""
        self.folder, self.venv, self.count = folder, venv, count
        self.id = f"{os.getpid() % 10**5:05d}"
        self.bridge = f"lq{self.id}"
        self.net = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
        self.key = folder / "key"
        self.hosts: list[Host] = []

    def __enter__(self) -> Hosts:
        """Make the bridge and the hosts."""
        try:
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
            run("ip", "link", "add", self.bridge, "type", "bridge")
            run("ip", "addr", "add", f"{self.net}.1/24", "dev", self.bridge)
            run("ip", "link", "set", self.bridge, "up")
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd's own folder
            for number in range(1, self.count + 1):
                self.hosts.append(self.start(number))
            for host in self.hosts:
                self.wait_for(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self, number: int) -> Host:
        """Make a host and start its sshd."""
        name, address = f"n{number}", f"{self.net}.{number + 10}"
        space, inner, outer = f"{self.bridge}{name}", "eth0", f"v{self.id}{name}"
        run("ip", "netns", "add", space)
        run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", space)
        run("ip", "link", "set", outer, "master", self.bridge, "up")
        inside = ("ip", "-n", space)
        run(*inside, "addr", "add", f"{address}/24", "dev", inner)
        run(*inside, "link", "set", inner, "up")
        run(*inside, "route", "add", "default", "via", f"{self.net}.1")  # Ray asks which is ours
        files, seen = self.folder / "all" / name, self.folder / "host"
        self.fill(files, seen, address)
        script = SETUP.format(
            own=files, seen=seen, others=self.folder / "all", venv=self.venv, name=name
        )
        command = ["ip", "netns", "exec", space, "unshare", "--mount", "--uts", "--pid", "--ipc"]
        command += ["--fork", "--mount-proc", "--kill-child", "bash", "-c", script]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        return Host(name, address, files, process)

    def fill(self, files: Path, seen: Path, address: str) -> None:
        """Write a host's own files; it finds them at `seen`, as every host does."""
        for folder in (files / "home" / "loqua" / ".venv", files / "tmp-ray", seen):
            folder.mkdir(parents=True, exist_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(files / "host_key"))
        shutil.copy(self.key.with_suffix(".pub"), files / "authorized_keys")
        lines = Path("/etc/passwd").read_text().splitlines()
        others = [line for line in lines if not line.startswith("root:")]
        root = f"root:x:0:0:root:{seen / 'home'}:/bin/bash"
        (files / "passwd").write_text("\n".join([root, *others]) + "\n")
        (files / "sshd_config").write_text(SSHD.format(address=address, seen=seen))

    def ssh(self, host: Host, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a host."""
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        options += ["-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5"]
        return subprocess.run(
            ["ssh", "-i", str(self.key), *options, f"root@{host.address}", command],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def wait_for(self, host: Host) -> None:
        """Return when a host answers."""
        deadline = time.monotonic() + 60
        while (answer := self.ssh(host, "hostname")).stdout.strip() != host.name:
            if time.monotonic() > deadline or host.process.poll() is not None:
                log = (self.folder / f"{host.name}.log").read_text()
                raise RuntimeError(f"{host.name} does not come up:\n{answer.stderr}\n{log}")
            time.sleep(0.2)

    def __exit__(self, *_: object) -> None:
        """End all processes of the hosts and remove what was made."""
        for host in self.hosts:
            host.process.kill()  # --kill-child ends the rest of its process namespace
            host.process.wait()
        for number in range(1, self.count + 1):
            run("ip", "netns", "del", f"{self.bridge}n{number}", check=False)
        run("ip", "link", "del", self.bridge, check=False)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.folder)
