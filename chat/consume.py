"""`consume`: what is kept of a channel goes into a file, a JSON line a message, each once and in order.

The file says how far it is: its last whole line names a position. So a consumer that was killed goes on where it was,
and nothing is lost or doubled, whatever happened between a line and what would have noted it elsewhere.
"""

import asyncio
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from chat.errors import BadRequest, NameTaken, PeykError, Temporary, Unauthorized
from chat.models import channel_id
from chat.node import Join
from chat.opening import opened
from chat.protocol import encode
from chat.settings import ServerSettings
from chat.source import Began, Said, Source
from chat.terminal import PAGE
from pipeline.resp import FAILURES
from pipeline.system import lock

_BLOCK = 64 * 1024  # bytes that are read at once to find the last line
_LONGEST = 8 * 1024 * 1024  # bytes of the file's end that are looked at
_BEGIN = b'{"epoch":"'  # of each line
_WAIT = 0.5  # seconds before what failed is tried again
_INTO_WHAT = "consume CHANNEL >> FILE, or consume CHANNEL FILE; into a pipe: replay CHANNEL --follow"


class _Line(msgspec.Struct):
    epoch: str
    offset: int


class Record:
    """The file. Use `opened_record`."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self.epoch = ""
        self.offset = 0

    def find_place(self) -> None:
        """Read the last whole line, and cut off what a killed consumer left of one. Raises BadRequest for a file that
        holds something else, which is left as it is."""
        size = end = self._file.seek(0, os.SEEK_END)
        tail = b""
        while end > 0 and tail.count(b"\n") < 2 and len(tail) < _LONGEST:
            begin = max(0, end - _BLOCK)
            self._file.seek(begin)
            tail = self._file.read(end - begin) + tail
            end = begin
        whole, newline, left = tail.rpartition(b"\n")
        try:
            if newline:
                line = msgspec.json.decode(whole.rpartition(b"\n")[2], type=_Line)
                self.epoch = line.epoch
                self.offset = line.offset
            if not (left.startswith(_BEGIN) or _BEGIN.startswith(left)):
                raise ValueError
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
            text = f"{self._name} holds something else: its last line is none of consume's; name another file"
            raise BadRequest(text) from None
        if left:
            self._file.truncate(size - len(left))

    def write(self, epoch: str, messages: list[Said]) -> None:
        """Add messages of a channel's epoch. Raises BadRequest if the file takes no more."""
        lines = []
        for message in messages:
            info = {"user": message.user, "client": message.client}
            place = {"epoch": epoch, "offset": message.offset, "time": message.time}
            lines.append(encode({**place, "data": message.data, "info": info}))
        try:
            self._file.write(b"\n".join([*lines, b""]))
            self._file.flush()
        except OSError as error:
            raise BadRequest(f"{self._name} takes no more: {error.strerror}; consume again when it does") from None
        self.epoch = epoch
        self.offset = messages[-1].offset


@contextmanager
def opened_record(path: Path | None) -> Iterator[Record]:
    """The file at `path`, or the one that standard output goes to, for one consumer alone.

    Raises BadRequest, and NameTaken while another consumer writes it.
    """
    name = str(path or "standard output")
    if path is None and not stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode):
        raise BadRequest(f"consume keeps its place in the file it writes: {_INTO_WHAT}")
    try:
        place = path or f"/dev/fd/{sys.stdout.fileno()}"  # opened once more: what the shell opened cannot be read
        file = os.fdopen(os.open(place, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b")
    except OSError as error:
        raise BadRequest(f"{name} cannot be read and written: {error.strerror}; {_INTO_WHAT}") from None
    with file:
        try:
            lock(file)
        except OSError:
            raise NameTaken(f"another consumer writes {name}; one is enough") from None
        record = Record(file, name)
        record.find_place()
        yield record


class Consumer:
    """The listener behind `consume`: whatever is heard is a reason to read on, and what is read is written."""

    def __init__(self, source: Source, channel: str, record: Record) -> None:
        self._source = source
        self._channel = channel
        self._record = record
        self._wake = asyncio.Event()
        self._final: PeykError | None = None
        self._subscribed = False

    def said(self, channel: str, message: Said) -> None:
        self._wake.set()

    def began(self, channel: str, began: Began) -> None:
        self._wake.set()

    def ended(self, channel: str, code: int, reason: str) -> None:
        self._subscribed = False
        self._wake.set()

    def connected(self, up: bool, why: str = "", final: bool = False) -> None:
        if final:
            self._final = Unauthorized(why)
        self._wake.set()

    async def run(self) -> None:
        """Write what there is and what comes, for ever. Raises PeykError if that will never succeed."""
        while self._final is None:
            self._wake.clear()
            try:
                if not self._subscribed:
                    await self._source.subscribe(self._channel)
                    self._subscribed = True
                await self._catch_up()
            except (Temporary, *FAILURES) as error:
                print(f"peyk: {error}; trying again", file=sys.stderr)
                await asyncio.sleep(_WAIT)
                continue
            await self._wake.wait()
        raise self._final

    async def _catch_up(self) -> None:
        record = self._record
        while True:
            past = await self._source.after(self._channel, record.offset, PAGE)
            if record.epoch and past.epoch != record.epoch:
                print(f"peyk: {self._channel} began anew; this goes on with its first message", file=sys.stderr)
                record.epoch = ""
                record.offset = 0
                continue
            if not past.messages:
                return
            first = past.messages[0].offset
            if first > record.offset + 1:
                missed = f"{record.offset + 1} to {first - 1}"
                print(f"peyk: messages {missed} of {self._channel} are no longer kept", file=sys.stderr)
            record.write(past.epoch, past.messages)


async def consume(settings: ServerSettings, join: Join, username: str, name: str, path: Path | None) -> None:
    """Write what is kept of a channel, and what comes, into a file. Raises PeykError if that will never succeed."""
    channel = channel_id(name)
    with opened_record(path) as record:
        async with opened(settings, username, "terminal", join) as source:
            consumer = Consumer(source, channel, record)
            source.listener = consumer
            await consumer.run()
