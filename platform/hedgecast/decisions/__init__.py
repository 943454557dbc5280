"""Backends that solve two-stage programs."""
