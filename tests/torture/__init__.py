"""Attempts to break fastrnn, section by section: `python -m tests.torture --minutes N` in a checkout.

Each section is a module with a `SECTION`. It tries random cases until its time is up, counts them, and tells of each
that did not hold with what is needed to see it again.
"""

SECTIONS = ("memory", "calls", "bits", "processes", "files", "numbers", "environment")
