"""Events in without a broker: straight to the streams, with the same answers (pipeline.ports.Gateway)."""

import asyncio
from collections.abc import Sequence

from chat.errors import PeykError
from pipeline.event import Event, key_of
from pipeline.producer import Producer


class StreamGateway:
    """Appends events at once; an event's id is its idempotency key."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    async def publish(self, events: Sequence[Event]) -> None:
        """Return when every event is in its stream. Raises what Producer.publish does."""
        appends = [self._producer.publish(e.channel, e.data(), user=e.user, key=key_of(e.id)) for e in events]
        raise_failed(events, await asyncio.gather(*appends, return_exceptions=True))


def raise_failed(events: Sequence[Event], outcomes: Sequence[object]) -> None:
    """Raise the first error among `outcomes`, if there is any, with the ids of the events that failed."""
    failed = [(e, outcome) for e, outcome in zip(events, outcomes, strict=True) if isinstance(outcome, BaseException)]
    if not failed:
        return
    error = failed[0][1]
    if len(failed) < len(events) and isinstance(error, PeykError):
        ids = ", ".join(event.id for event, _ in failed[:20]) + (", …" if len(failed) > 20 else "")
        raise error.saying(f"{len(failed)} of {len(events)} events were not queued ({ids}): {error}")
    raise error
