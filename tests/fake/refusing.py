"""Runs a program where some system calls are refused: as on a kernel without landlock, or as a
container's own filter does.

usage: refusing.py CALL[,CALL...] PROGRAM ARGS...
"""

import ctypes
import errno
import os
import struct
import sys

# Number on x86-64 and elsewhere, and the error that it really gives there.
CALLS = {
    # Switched off at boot.
    "landlock_create_ruleset": (444, 444, errno.EOPNOTSUPP),
    # Not in the default lists of container runtimes, but for those with CAP_SYS_PTRACE.
    "pidfd_getfd": (438, 438, errno.EPERM),
    "process_vm_readv": (310, 270, errno.EPERM),
}
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38
ALLOW, ERRNO = 0x7FFF0000, 0x00050000


class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


rules = [(0x20, 0, 0, 0)]  # load the number of the call
for name in sys.argv[1].split(","):
    x86_64, other, error = CALLS[name]
    number = x86_64 if os.uname().machine == "x86_64" else other
    rules += [(0x15, 0, 1, number), (0x06, 0, 0, ERRNO | error)]
rules.append((0x06, 0, 0, ALLOW))
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
program = Program(len(rules), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
    PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
):
    sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[2], sys.argv[2:])
