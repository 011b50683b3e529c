"""What the benchmarks say of their numbers."""

from __future__ import annotations

from bench.samples import Row, Samples, alternate, compare


def test_p99_is_the_nearest_rank() -> None:
    assert Samples([float(n) for n in range(1, 201)]).p99 == 198
    assert Samples([3.0, 1.0, 2.0]).p99 == 3.0


def test_ratio_is_of_medians() -> None:
    row = Row("x", "ms", Samples([2, 4, 60]), Samples([2, 2, 2]), "-", "-", meets=True)
    assert row.ratio == 2.0


def test_a_block_that_raises_is_not_counted() -> None:
    samples = Samples()
    try:
        with samples.timed_ms():
            raise ValueError
    except ValueError:
        pass
    assert samples.values == []


async def test_the_sides_take_turns_and_change_who_begins() -> None:
    seen: list[str] = []

    async def product() -> None:
        seen.append("p")

    async def floor() -> None:
        seen.append("f")

    await alternate(2, (product, floor), warm_up=0)
    assert seen == ["p", "f", "f", "p"]


async def test_what_warmed_up_is_not_counted() -> None:
    turns = iter(range(100))

    async def measure(samples: Samples) -> None:
        samples.values.append(next(turns))

    product, floor = await compare(2, measure, measure, warm_up=2)
    assert (product.values, floor.values) == ([4, 7], [5, 6])
