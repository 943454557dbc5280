"""Scenario sets."""
