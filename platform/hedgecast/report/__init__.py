"""Pages, tables and pictures; nothing here computes a result: every number comes in."""
