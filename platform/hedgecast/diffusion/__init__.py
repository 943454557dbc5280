"""Conditional diffusion over the slots of a day."""
