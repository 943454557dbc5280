"""What the tables of docs/decisions.md mean, in words: written after the runs, by task."""

OPENING = """
Made by `make bench-decisions` from benchmarks/results/decisions_*.json, which hold machine, versions, date
and command. Costs are per day, lower is better. Differences are paired by day, with 95 % intervals from a
bootstrap of blocks of days on the mean over seeds; each seed trains afresh in a process of its own, whose
seconds and peak memory are shown. Settings were chosen on validation days alone; benchmarks/LOG.md says when
test days were looked at.
"""

NOTES: dict[str, str] = {}
