"""The engine: assets, stages, pipelines, provenance."""

from cmbml.core.start import run, start

__all__ = ["run", "start"]
