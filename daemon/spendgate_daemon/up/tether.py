"""Run a command that doesn't outlive its parent: `tether.py PARENT_PID SIGNAL COMMAND...`.

Linux sends SIGNAL to this process, and to what it becomes, when the parent ends, even by `kill -9` (prctl(2),
PR_SET_PDEATHSIG; it survives exec). Elsewhere the command runs untethered, and the next `spendgate up` finds what was
left. It runs as a script before anything is imported, so it costs some ten milliseconds and no preexec_fn.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, death_signal, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the tether was tied
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606  (no shell is the point)


main()
