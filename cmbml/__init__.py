"""Simulate microwave skies, train networks on them, and measure how well they recover the CMB."""

from cmbml import maps  # noqa: F401 - every process that knows a stage can read and write maps
