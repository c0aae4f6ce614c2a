"""Work in a forked child: a crash or a hang there is a result, and what it does to its process stays there."""

import contextlib
import json
import os
import select
import signal
import sys
import time
import traceback


class Ended(Exception):
    """A child that did not come to its end: how it ended instead, and the last that it told."""

    def __init__(self, how, last):
        super().__init__(how)
        self.how, self.last = how, last


def in_child(function, *arguments, seconds):
    """Yield what the generator `function(*arguments)` yields in a forked child, which is killed when nothing has come
    for so many `seconds`; `Ended` if it crashes, raises or is killed.

    What is yielded goes through JSON. Closing this generator ends the child.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _work(function, arguments, write)
    os.close(write)
    last, status = None, None
    try:
        with open(read, "rb", buffering=0) as pipe:
            for line in _lines(pipe, seconds):
                last = json.loads(line)
                yield last
        _, status = os.waitpid(pid, 0)
    except TimeoutError:
        raise Ended(f"hung for {seconds} s", last) from None
    finally:
        if status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        raise Ended(f"ended with status {code}", last)


def _lines(pipe, seconds):
    buffer, end = b"", time.monotonic() + seconds
    while True:
        ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            raise TimeoutError
        data = pipe.read(1 << 16)
        if not data:
            return
        end = time.monotonic() + seconds
        *whole, buffer = (buffer + data).split(b"\n")
        yield from whole


def _work(function, arguments, write):
    """The child's whole life."""
    status = 1
    try:
        with open(write, "wb", buffering=0) as pipe:
            for result in function(*arguments):
                pipe.write(json.dumps(result).encode() + b"\n")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
