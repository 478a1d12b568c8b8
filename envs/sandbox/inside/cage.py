"""The walls that a worker puts round itself once, before it has seen any program.

Tier A: namespaces, Landlock; B: Landlock; C: neither. In all three no privilege is left and none can be gained, and a
run's child adds its limits (`limit_child`) and the system call filter (seccomp.py) on top. Every function raises
OSError where the kernel refuses, and then the worker does not start.
Source: namespaces(7), pivot_root(2), landlock(7), capabilities(7), prctl(2); numbers from the kernel's headers.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import struct
from pathlib import Path

from envs.sandbox.inside import libc

_NEW_NS, _NEW_CGROUP, _NEW_UTS, _NEW_IPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
_NEW_USER, _NEW_PID, _NEW_NET = 0x10000000, 0x20000000, 0x40000000
_NAMESPACES = _NEW_NS | _NEW_CGROUP | _NEW_UTS | _NEW_IPC | _NEW_PID | _NEW_NET
_MS_RDONLY_NOSUID_NODEV_NOEXEC, _MS_REC_PRIVATE, _MNT_DETACH = 0xF, 0x4000 | 1 << 18, 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446

_CAPABILITY_HEADER = struct.pack("=II", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process

UIDS = (61_917, 65_534)
"""Users that a worker started by root becomes: one that nobody has, or else nobody."""


def enter_namespaces() -> None:
    """Go on as process 1 of new namespaces with an empty, read-only root; the caller's process stays outside and waits.

    Nothing is mounted and no interface is up; other processes cannot be named. When process 1 dies, all in it die.
    """
    outside = (os.geteuid(), os.getegid())
    if outside[0] == 0:
        try:
            libc.call("unshare", _NAMESPACES)
        except PermissionError:  # root of a container
            _unshare_as_user(*outside)
    else:
        _unshare_as_user(*outside)
    libc.call("mount", b"none", b"/", None, _MS_REC_PRIVATE, None)
    libc.call("mount", b"none", b"/tmp", b"tmpfs", _MS_RDONLY_NOSUID_NODEV_NOEXEC, b"size=4k,nr_inodes=2,mode=555")
    os.chdir("/tmp")
    libc.syscall(_PIVOT_ROOT[libc.MACHINE], b".", b".")
    libc.call("umount2", b".", _MNT_DETACH)
    os.chdir("/")
    if os.listdir("/"):
        raise OSError("the new root is not empty")
    libc.call("sethostname", b"sandbox", 7)
    first = os.fork()
    if first:
        _wait_outside(first)
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)


def _unshare_as_user(uid: int, gid: int) -> None:
    """Namespaces for those without privilege: a user namespace first, in which nobody else exists."""
    libc.call("unshare", _NEW_USER | _NAMESPACES)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _wait_outside(first: int) -> None:
    """The process that the trainer started: holds nothing open, and ends when process 1 does."""
    os.closerange(3, 1024)
    os.waitpid(first, 0)
    os._exit(0)


def drop_privileges() -> None:
    """No root, no capability, no way to gain one by any program; unreadable to others of the same user."""
    if os.geteuid() == 0:
        for capability in range(64):
            try:
                libc.prctl(libc.PR_CAPBSET_DROP, capability)
            except OSError:  # beyond the last one that this kernel has, or not ours to drop
                break
        _become_nobody()
    libc.call("capset", _CAPABILITY_HEADER, bytes(24))
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    libc.prctl(libc.PR_SET_DUMPABLE, 0)


def _become_nobody() -> None:
    for uid in UIDS:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            return
        except OSError:  # not mapped in this container, or setuid not allowed: the walls hold without it
            continue


def landlock() -> None:
    """No file or folder can be opened, made or run, no TCP port used, no process outside signalled, from here on.

    An empty ruleset over all rights that this kernel knows.
    """
    abi = libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    file_rights = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    net_rights = 0b11 if abi >= 4 else 0
    scopes = 0b11 if abi >= 6 else 0  # abstract sockets, signals
    attributes = struct.pack("=QQQ", file_rights, net_rights, scopes)
    known = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = libc.syscall(_LANDLOCK_CREATE, attributes, known, 0)
    libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


def limit_child(timeout_s: float, memory_bytes: int) -> None:
    """Bounds of one run; the system call filter keeps them from being raised."""
    seconds = int(timeout_s) + 1
    for kind, soft, hard in (
        (resource.RLIMIT_AS, memory_bytes, memory_bytes),
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_NOFILE, 8, 8),
        (resource.RLIMIT_NPROC, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
    ):
        resource.setrlimit(kind, (soft, hard))


def die_with_parent() -> None:
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)


def first_to_go() -> None:
    """Where the machine runs out of memory, the kernel takes a worker and not the trainer."""
    Path("/proc/self/oom_score_adj").write_text("900")


def walls() -> list[str]:
    """What is seen to hold from in here, by trying: `namespaces`, `landlock`, `privileges`."""
    found = []
    if os.getpid() == 1 and not _reaches_loopback():
        found.append("namespaces")
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
    except PermissionError:
        found.append("landlock")
    if _cannot_regain():
        found.append("privileges")
    return found


def _reaches_loopback() -> bool:
    """A new network namespace has but a loopback, and that is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("127.0.0.1", 9))
        except OSError:
            return False
    return True


def _cannot_regain() -> bool:
    """No capability left, and no_new_privs set: as the kernel says."""
    sets = ctypes.create_string_buffer(24)
    libc.call("capget", _CAPABILITY_HEADER, sets)
    return not any(sets.raw) and libc.call("prctl", libc.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1
