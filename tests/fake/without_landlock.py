"""Runs a program on a kernel that seems to have no landlock: landlock_create_ruleset(2) fails with
EOPNOTSUPP, as it does where landlock is switched off at boot.

usage: without_landlock.py PROGRAM ARGS...
"""

import ctypes
import errno
import os
import struct
import sys

# landlock_create_ruleset has this number on every architecture that landlock supports.
LANDLOCK_CREATE_RULESET = 444
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38
ALLOW, ERRNO = 0x7FFF0000, 0x00050000


class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


rules = [
    (0x20, 0, 0, 0),  # load the number of the call
    (0x15, 0, 1, LANDLOCK_CREATE_RULESET),
    (0x06, 0, 0, ERRNO | errno.EOPNOTSUPP),
    (0x06, 0, 0, ALLOW),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
program = Program(len(rules), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
    PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
):
    sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[1], sys.argv[1:])
