"""Shipped programs."""
