"""The list of channels: a page at a time, and a word to who listens when one is made, changed or deleted.

A page reads so many names of one sorted set and what is said of them, however many channels there are. Who asked for
the list with `listen` hears of changes, so that nobody has to ask for it again: those of a moment together, not more
than AT_ONCE, and each only what one may see.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from chat.access import Access
from chat.auth import Policy
from chat.channels import Channels
from chat.models import Channel
from chat.policies import NEW, Policies
from chat.protocol import encode
from pipeline.lasting import end, lasting
from pipeline.resp import FAILURES

if TYPE_CHECKING:
    from chat.session import Session

DEFAULT_PAGE = 200  # channels
AT_ONCE = 100  # changes in one word; beyond, it says that there were many
_LOOKED_AT = 2000  # names at most for one page, of which somebody may see few
_READ = 250  # names in one round trip, and if few channels are asked for, few
_FEW = 20
_PAUSE = 1.0  # seconds in which changes are gathered
_SLICE = 100  # clients that are told before others have their turn


class Listing(msgspec.Struct):
    """A page of channels, by id; `next` is what to ask for with `after`, empty at the end."""

    channels: list[Channel]
    next: str = ""


class Directory:
    """The list of channels as one node shows it. `sessions()` are its clients."""

    def __init__(self, channels: Channels, policies: Policies, sessions: Callable[[], Collection["Session"]]) -> None:
        self._channels = channels
        self._policies = policies
        self._sessions = sessions
        self._changed: dict[str, None] = {}  # in order
        self._gone: dict[str, str] = {}  # deleted, and of what kind they were
        self._many = False
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = lasting(self._run)

    async def close(self) -> None:
        await end(self._task)

    # -- pages

    async def page(self, access: Access, after: str = "", limit: int = DEFAULT_PAGE, prefix: str = "") -> Listing:
        """The channels behind `after`, whose id begins with `prefix`, that `access` may subscribe to; `limit` at most.

        There may be fewer of them, or none, and more behind: `next` says so.
        """
        found: list[Channel] = []
        for _ in range(0, _LOOKED_AT, _READ):
            names = await self._channels.names(after, min(_READ, max(limit, _FEW) + 1), prefix)
            for channel in await self._visible(access, names):
                if len(found) == limit:
                    return Listing(found, found[-1].id if found else after)
                found.append(channel)
            if not names:
                return Listing(found)
            after = names[-1]
        return Listing(found, after)

    async def named(self, access: Access, ids: Sequence[str]) -> Listing:
        """Those of `ids` that are there, and that `access` may subscribe to."""
        found: list[Channel] = []
        for start in range(0, len(ids), _READ):
            found += await self._visible(access, ids[start : start + _READ])
        return Listing(found)

    async def _visible(self, access: Access, names: Sequence[str]) -> list[Channel]:
        access.looks_up(len(names))
        read = await self._channels.seen_by(access.identity.user.id, names)
        return [channel for channel, policy in read if access.may("subscribe", channel.id, policy)]

    # -- changes

    def changed(self, channel: str) -> None:
        """A channel was made, or is not what it was."""
        if len(self._changed) >= AT_ONCE:
            self._many = True
        else:
            self._changed[channel] = None
        self._woken.set()

    def deleted(self, channel: str, kind: str) -> None:
        if len(self._gone) >= AT_ONCE:
            self._many = True
        else:
            self._gone[channel] = kind
        self._woken.set()

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            await asyncio.sleep(_PAUSE)
            self._woken.clear()
            changed, self._changed = list(self._changed), {}
            gone, self._gone = self._gone, {}
            many, self._many = self._many, False
            with contextlib.suppress(*FAILURES):  # who lost the word hears the next, or asks when it comes back
                await self._tell(changed, gone, many)

    async def _tell(self, changed: Sequence[str], gone: dict[str, str], many: bool) -> None:
        listeners = [session for session in self._sessions() if _listens(session)]
        if not listeners:
            return
        there = {channel.id: channel for channel in await self._channels.read(changed)}
        policies = await self._policies.of(list(there))
        items: list[tuple[Channel | str, str, Policy]] = []
        items += [(channel, id, policies[id]) for id, channel in there.items() if policies[id] is not NEW]
        items += [(id, id, Policy(kind)) for id, kind in gone.items() if id not in there]
        lines: dict[tuple[int, ...], bytes] = {}
        for number, session in enumerate(listeners):
            if number % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            if not _listens(session) or session.full:
                continue
            seen = tuple(i for i, (_, id, policy) in enumerate(items) if session.access.may("subscribe", id, policy))
            if not seen and not many:
                continue
            if seen not in lines:
                lines[seen] = _word([items[i][0] for i in seen], many)
            session.reply(lines[seen])


def _listens(session: "Session") -> bool:
    return session.user is not None and not session.closed and session.access.listens


def _word(items: Iterable[Channel | str], many: bool) -> bytes:
    """What listeners are told: a push of the protocol that is of no channel. `many`: there was more than it says."""
    word: dict[str, Any] = {"changed": [], "gone": [], "many": many}
    for item in items:
        word["gone" if isinstance(item, str) else "changed"].append(item)
    return encode({"push": {"message": {"data": {"channels": word}}}})
