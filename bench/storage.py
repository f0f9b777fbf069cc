"""Section `storage`: donations, the zone-security table as it grows, and many guests that were given storage."""

from __future__ import annotations

from bench.donations import donations
from bench.run import Figures, Run
from bench.started_guests import started_guests
from bench.zone_ranges import zone_ranges


def measure(run: Run) -> Figures:
    """What each of the three modules finds."""
    directory = run.room("s")
    found: Figures = {"donations": donations(run, directory / "d"), "ranges": {}}
    for count in run.size.ranges:
        run.say(f"a zone-security table of {count:,} ranges")
        found["ranges"][f"{count:,}"] = zone_ranges(count, run.size.rounds, run.size.donations)
    found["guests"] = started_guests(run, directory / "k")
    return found
