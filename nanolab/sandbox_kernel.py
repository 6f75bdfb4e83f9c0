"""Walls that Linux builds around a process, asked for through ctypes: Landlock for files, seccomp for system calls.

Both only ever take rights away, need no privileges, and hold for everything the process does, native code included.
Sources: https://docs.kernel.org/userspace-api/landlock.html and
https://docs.kernel.org/userspace-api/seccomp_filter.html. Used by `sandbox_child`, inside the process to be shut in.
"""

import ctypes
import errno
import os
import struct
import sys

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP = 1, 4, 22
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38

# Landlock's rights on files, include/uapi/linux/landlock.h; the last three came with ABI 2, 3 and 5.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_DIR, MAKE_REG = 1 << 7, 1 << 8
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
FIRST_RIGHTS = (1 << 13) - 1
USE_FOLDER = WRITE_FILE | READ_FILE | READ_DIR | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | REFER | TRUNCATE
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446  # the same numbers on every architecture

# seccomp's answers, and the four BPF instructions needed, include/uapi/linux/seccomp.h and bpf_common.h.
KILL, REFUSE, ALLOW = 0x80000000, 0x00050000 | errno.EPERM, 0x7FFF0000
LOAD, AND, JUMP_IF_EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # audit number, column of CALLS

# What Python needs to compute and to use files, as (x86_64, aarch64) numbers; None: the call does not exist there.
# Everything else is refused: processes and threads (clone), programs (execve), sockets, signals to anybody, ptrace,
# chmod, mount, namespaces, shared memory, io_uring, the numbers of x32, and whatever a newer kernel adds.
CALLS = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "lseek": (8, 62), "pread64": (17, 67), "pwrite64": (18, 68),
    "readv": (19, 65), "writev": (20, 66), "sendfile": (40, 71), "copy_file_range": (326, 285), "ioctl": (16, 29),
    "fcntl": (72, 25), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "pipe": (22, None), "pipe2": (293, 59),
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "fsync": (74, 82),
    "fdatasync": (75, 83), "ftruncate": (77, 46),
    "open": (2, None), "openat": (257, 56), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "stat": (4, None), "fstat": (5, 80), "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291),
    "statfs": (137, 43), "fstatfs": (138, 44), "readlink": (89, None), "readlinkat": (267, 78),
    "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "mkdir": (83, None),
    "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None),
    "renameat": (264, 38), "renameat2": (316, 276), "umask": (95, 166),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128), "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293),
    "setitimer": (38, 103), "alarm": (37, None), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    "sched_yield": (24, 124), "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169),
    "time": (201, None), "times": (100, 153), "getrusage": (98, 165), "getrandom": (318, 278),
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getpgrp": (111, None), "getpgid": (121, 155),
    "getsid": (124, 156), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "getgroups": (115, 158), "uname": (63, 160), "sysinfo": (99, 179), "getcpu": (309, 168),
    "sched_getaffinity": (204, 123), "prlimit64": (302, 261), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip

# Calls of many uses, allowed for some values of one argument: (its index, the values).
VALUES = {
    "ioctl": (1, (0x5401, 0x5450, 0x5451)),  # is it a terminal?, and the close-on-exec flag
    "fcntl": (1, (0, 1, 2, 3, 4, 1030)),  # duplicate, read and set flags; no owners, leases or signals
    "prlimit64": (0, (0,)),  # one's own limits
}
FLAGS = {"open": 1, "openat": 2}  # index of the flags


class WallMissing(Exception):
    """This machine cannot build a wall; the message says why."""


def prctl(option: int, value: int, pointer: object = None) -> None:
    """Linux's prctl(2) for the calling process. Raises WallMissing if the kernel says no or is not Linux."""
    if not sys.platform.startswith("linux"):
        raise WallMissing(f"{sys.platform} is not Linux")
    arguments = (ctypes.c_ulong(value), pointer or ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))
    if ctypes.CDLL(None, use_errno=True).prctl(ctypes.c_int(option), *arguments):
        raise WallMissing(f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}")


def shut_files(readable: list[str], folder: str) -> str:
    """Landlock: from now on only `readable` (folders and files) can be read, and only `folder` be written to.

    TCP, abstract sockets and signals to other processes go too, as far as the kernel's version of Landlock can. Returns
    the wall's name with that version; raises WallMissing.

    >>> shut_files(["/usr/lib"], "/tmp/scratch")                                             # doctest: +SKIP
    'landlock 7'
    """
    version = _landlock(LANDLOCK_CREATE, None, 0, 1)
    newer = REFER * (version >= 2) | TRUNCATE * (version >= 3) | IOCTL_DEV * (version >= 5)
    rights = FIRST_RIGHTS | newer
    size = 8 if version < 4 else 16 if version < 6 else 24  # of the structure that this version knows
    handled = struct.pack("QQQ", rights, 0b11, 0b11)  # files; bind and connect; abstract sockets and signals
    ruleset = _landlock(LANDLOCK_CREATE, handled, size, 0)
    for path in readable:
        _allow(ruleset, path, READ_FILE | READ_DIR)
    _allow(ruleset, "/dev/null", (READ_FILE | WRITE_FILE | TRUNCATE) & rights)
    _allow(ruleset, folder, USE_FOLDER & rights)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    _landlock(LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)
    return f"landlock {version}"


def _landlock(number: int, *arguments) -> int:
    if not sys.platform.startswith("linux"):
        raise WallMissing(f"{sys.platform} is not Linux")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    in_words = (ctypes.c_long(value) if isinstance(value, int) else value for value in arguments)
    answer = libc.syscall(ctypes.c_long(number), *in_words)
    if answer < 0:
        raise WallMissing(f"the kernel has no Landlock or has it switched off ({os.strerror(ctypes.get_errno())})")
    return answer


def _allow(ruleset: int, path: str, rights: int):
    """Allow `rights` on everything under a path; a path that does not exist needs no rule."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):
        rights &= READ_FILE | WRITE_FILE | TRUNCATE
    rule = struct.pack("=Qi", rights, place)
    try:
        _landlock(LANDLOCK_ADD, ruleset, 1, rule, 0)
    finally:
        os.close(place)


def shut_calls() -> str:
    """seccomp: from now on only the system calls in CALLS are answered, all others fail with EPERM.

    Returns the wall's name; raises WallMissing.
    """
    instructions = filter_program(os.uname().machine)
    buffer = ctypes.create_string_buffer(b"".join(instructions))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]

    program = Program(len(instructions), ctypes.addressof(buffer))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_SECCOMP, 2, ctypes.byref(program))
    return "seccomp"


def filter_program(machine: str) -> list[bytes]:
    """The BPF instructions that judge a system call on a machine ("x86_64" or "aarch64"), eight bytes each.

    They see struct seccomp_data: the call's number at byte 0, the architecture at 4, argument i at 16 + 8 i.

    >>> len(filter_program("x86_64")) > len(filter_program("aarch64"))
    True
    """
    if machine not in ARCHITECTURES or sys.maxsize < 2**32 or sys.byteorder != "little":
        raise WallMissing(f"the list of system calls is for 64-bit {' and '.join(ARCHITECTURES)}, not for {machine}")
    architecture, column = ARCHITECTURES[machine]
    program = [_bpf(LOAD, 4), _bpf(JUMP_IF_EQUAL, architecture, 1, 0), _bpf(RETURN, KILL), _bpf(LOAD, 0)]
    for name, numbers in CALLS.items():
        if numbers[column] is not None:
            verdict = _verdict(name)
            program += [_bpf(JUMP_IF_EQUAL, numbers[column], 0, len(verdict)), *verdict]
    return [*program, _bpf(RETURN, REFUSE)]


def _verdict(name: str) -> list[bytes]:
    """Instructions that end the judgement of a listed call."""
    if name in VALUES:
        index, values = VALUES[name]
        tests = [part for value in values for part in (_bpf(JUMP_IF_EQUAL, value, 0, 1), _bpf(RETURN, ALLOW))]
        return [_bpf(LOAD, 16 + 8 * index), *tests, _bpf(RETURN, REFUSE)]
    if name in FLAGS:
        # Opening for reading with O_TRUNC empties a file, and Landlock before version 3 does not see that.
        mask = os.O_ACCMODE | os.O_TRUNC
        compare = _bpf(JUMP_IF_EQUAL, os.O_RDONLY | os.O_TRUNC, 0, 1)
        return [_bpf(LOAD, 16 + 8 * FLAGS[name]), _bpf(AND, mask), compare, _bpf(RETURN, REFUSE), _bpf(RETURN, ALLOW)]
    return [_bpf(RETURN, ALLOW)]


def _bpf(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
