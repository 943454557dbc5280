"""Errors, configuration records and the axis legend: no dependencies."""
