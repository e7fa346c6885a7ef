"""Hypothesis profiles: "default" is fast, "deep" is chosen by CONVERGENCE_TEST_PROFILE."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "default", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("deep", max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("CONVERGENCE_TEST_PROFILE", "default"))
