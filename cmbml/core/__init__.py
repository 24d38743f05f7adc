"""The engine alone: assets, stages, pipelines, provenance."""
