"""How many workers a load takes that comes and goes, against the fewest that could hold it."""

from __future__ import annotations

from bench.samples import Row, Samples
from sandfleet.testing.virtual_fleet.report import figures, lower_bound
from sandfleet.testing.virtual_fleet.scenario import Scenario

SCENARIO = Scenario(workers_max=400, sandboxes=2000, hours=3.0, seed=1)
SHARE_MIN = 95.0


def measure() -> list[Row]:
    """Measure."""
    done = SCENARIO.play(SCENARIO.trace())
    product, floor = Samples(), Samples()
    for one in done.rounds:
        if one.occupied:
            product.values.append(100 * lower_bound(one, SCENARIO.worker_memory_mib) / one.occupied)
            floor.values.append(100.0)
    found = figures(done, round_s=SCENARIO.round_s)
    return [
        Row(
            what="packing of a trace",
            unit="%",
            product=product,
            floor=floor,
            floor_is="promised memory over a worker's, rounded up: the fewest workers that could hold it",
            target=">= 95 % of the lower bound",
            meets=product.median >= SHARE_MIN,
            note=f"{found.sandboxes_placed:,} sandboxes of 1 to 16 GiB, {SCENARIO.hours:.0f} virtual hours, "
            "workers of 128 GiB, the rate swings by half. Of all workers, reserve and draining included, "
            f"{found.utilisation:.0%} was promised; {found.migrations} live migrations, {found.thrash} "
            f"machines launched within 30 minutes after a removal, {found.refused} creates refused.",
        )
    ]
