"""The engine: assets, stages, pipelines, provenance."""
