"""Becomes the program it is given, after asking the kernel to signal it when the supervisor's thread ends.

Run as a file by `processes`, never imported: `python -I -S leash.py <signal> <parent's pid> <program> <arguments…>`.
A program of its own because Python code between fork and exec may deadlock in a process with threads.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # prctl(2); kept over exec, except of set-user-id programs

signal_number, parent = int(sys.argv[1]), int(sys.argv[2])
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number)
if os.getppid() != parent:  # it died before the line above
    sys.exit(1)
os.execv(sys.argv[3], sys.argv[3:])
