"""Which orders for another size a VM still takes: none older than one that it took, none that was refused.

An order may arrive twice, and its second copy when the operation that gave it is over: what it
asks for is reserved for nobody then. Orders of one sandbox are numbered in the order in which
their operations began. Neither an order nor what is known of it here outlives the worker's process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sandfleet.model.errors import (
    HypervisorFailed,
    NoCapacity,
    SandfleetError,
    StaleEpoch,
    StaleVersion,
    Unavailable,
)


class SizeOrders:
    """The orders of one VM, which are carried out one after the other."""

    def __init__(self) -> None:
        self._newest = 0
        self._refusal: SandfleetError | None = None

    @contextmanager
    def carrying_out(self, sequence: int) -> Iterator[None]:
        """Keep how the order ends; StaleVersion for an older one, its refusal for one that was refused."""
        if sequence < self._newest:
            raise StaleVersion(f"change of size {sequence} is over, {self._newest} has come")
        if sequence == self._newest and self._refusal is not None:
            raise self._refusal
        self._newest, self._refusal = sequence, None
        try:
            yield
        except (StaleEpoch, Unavailable) as error:
            if isinstance(error, NoCapacity):  # the rest is asked again
                self._refusal = error
            raise
        except SandfleetError as error:
            self._refusal = error
            raise
        except BaseException:
            self._refusal = HypervisorFailed("the change of size broke off")
            raise
