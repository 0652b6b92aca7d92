"""Settings of every test."""

from __future__ import annotations

import signal

from hypothesis import settings

# Machines are shared and noisy: a slow example is no failure, and a failure must come again for whoever looks into it.
settings.register_profile("rayloom", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("rayloom")
# A shell's background jobs ignore Ctrl-C's signal, and so would every process that a test starts and ends by it.
signal.signal(signal.SIGINT, signal.default_int_handler)
