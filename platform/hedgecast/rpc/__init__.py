"""Generated messages and their conversion to arrays."""
