"""Processor time, wall time and memory of a process; nothing but the standard library, for workers with another Keras."""

import json
import sys
import time


def timed(step, count):
    """Seconds of processor and wall time of `count` calls, per call."""
    processor, wall = time.process_time(), time.perf_counter()
    for _ in range(count):
        step()
    return (time.process_time() - processor) / count, (time.perf_counter() - wall) / count


def memory(field):
    """Resident memory of this process in MB: `VmRSS` now, `VmHWM` at most so far (`ru_maxrss` would count the parent's)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(f"{field}:"))


def serve(step):
    """Run on command: each line of standard input is a number of calls, each line out what `timed` gives."""
    for line in sys.stdin:
        print(json.dumps(timed(step, int(line))), flush=True)
