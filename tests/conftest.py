"""Settings of every test."""

from __future__ import annotations

from hypothesis import settings

# Machines are shared and noisy: a slow example is no failure, and a failure must come again for whoever looks into it.
settings.register_profile("rayloom", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("rayloom")
