"""What all tests share."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# How long an example takes, or making it up, says more about the machine than about the code.
settings.register_profile("foveate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("foveate")

# A shell has what it starts in the background ignore Ctrl-C, and the programs of the tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
