"""Stages that make a dataset."""
