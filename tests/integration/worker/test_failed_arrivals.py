"""A start of a sandbox to where a move of it failed: what only came there is not what was asked for."""

from __future__ import annotations

from tests.integration.worker.test_moves import ID, a_pair


async def test_what_arrives_is_no_start_and_begins_when_the_move_is_given_up() -> None:
    async with a_pair() as pair:
        await pair.receive()
        status, answer = await pair.target.start(ID, epoch=2)  # a wake, under the next epoch as the move was
        assert (status, answer["code"]) == (503, "not_ready")
        assert (await pair.target.vm(ID))[1]["state"] == "arriving"
        assert (await pair.abandon())["existed"]
        assert (await pair.target.start(ID, epoch=2))[1]["state"] == "running"
