"""What all tests share."""

import os

from hypothesis import settings

# Compiling takes seconds the first time, so no deadline; a failure in CI must come back when it is run again.
settings.register_profile("fastrnn", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("fastrnn")
