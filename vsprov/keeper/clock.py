"""A timer by the clock of the host, which people and NTP may set. It is loaded with the first schedule."""

from __future__ import annotations

import os
from ctypes import CDLL, byref, c_int, c_long, get_errno
from errno import ECANCELED
from time import CLOCK_REALTIME

NONBLOCK, CLOEXEC = 0o4000, 0o2000000
ABSTIME, CANCEL_ON_SET = 1, 2


class Clock:
    """A timerfd(2), readable when its time has come, or when the clock was set. OSError if there is none."""

    def __init__(self) -> None:
        self._libc = CDLL(None, use_errno=True)
        self.fd = self._call("timerfd_create", c_int(CLOCK_REALTIME), c_int(NONBLOCK | CLOEXEC))

    def set(self, at: float) -> None:
        """Wait until this time, in Unix time, and not until the one before."""
        at = max(at, 1e-9)  # 0 would stop it
        times = (c_long * 4)(0, 0, int(at), max(int(at % 1 * 1e9), 1))  # struct itimerspec
        self._call("timerfd_settime", c_int(self.fd), c_int(ABSTIME | CANCEL_ON_SET), byref(times), None)

    def was_set(self) -> bool:
        """Whether somebody has set the clock; call it when it is readable."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != ECANCELED:
                raise
            return True
        return False

    def _call(self, name: str, *words: object) -> int:
        found: int = getattr(self._libc, name)(*words)
        if found < 0:
            raise OSError(get_errno(), os.strerror(get_errno()))
        return found
