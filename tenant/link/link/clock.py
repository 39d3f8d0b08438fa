"""Whether the kernel holds its clock for synchronised: adjtimex(2), reading only."""

import ctypes

TIME_ERROR = 5  # <sys/timex.h>: not synchronised
TIMEX_BYTES = 512  # struct timex is 208 bytes on the 64-bit architectures; modes = 0 asks


def is_synchronised() -> bool:
    question = ctypes.create_string_buffer(TIMEX_BYTES)
    state: int = ctypes.CDLL(None, use_errno=True).adjtimex(question)
    return 0 <= state < TIME_ERROR
