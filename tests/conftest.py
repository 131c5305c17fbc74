"""What all tests share."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# How long an example takes, or making it up, says more about the machine than about the code.
_UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", _UNHURRIED, derandomize=True)  # a change is judged by its own faults alone
settings.register_profile("search", _UNHURRIED)  # `make nightly` looks for new ones
settings.load_profile("same")

# A shell has what it starts in the background ignore Ctrl-C, and the programs of the tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
