"""What can be said on the command line to the terminal, and to what it does in a pipe."""

import argparse
import getpass
from pathlib import Path

from chat.protocol import OFFSET_LIMIT
from chat.themes import THEMES
from chat.words import LANGUAGES


def _own_name() -> str:
    """What this machine calls whoever runs us; a container may give us a number that has no name."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        return "guest"


def add_terminal(top: argparse.ArgumentParser, sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The options of the terminal, and what it does in a pipe: there, --user and --url may stand behind the command."""
    top.add_argument("--user", default=_own_name(), help="your name (default: %(default)s)")
    top.add_argument("--url", help="a server, ws://host:5000, instead of Redis (PEYK_URL; its token: PEYK_TOKEN)")
    top.add_argument("--channel", default="general", help="the channel to join first (default: %(default)s)")
    top.add_argument("--lang", choices=LANGUAGES, default="", help="the terminal's language (default: as LANG says)")
    top.add_argument("--theme", choices=tuple(THEMES), default="peyk", help="colours (default: %(default)s)")
    top.add_argument("--plain", action="store_true", help="line by line, without a screen")
    where = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    where.add_argument("--user", help="your name")
    where.add_argument("--url", help="a server instead of Redis")
    send = sub.add_parser("send", parents=[where], help="publish a text, or each line of standard input")
    send.add_argument("channel")
    send.add_argument("text", nargs="*", help="what to say; without it, standard input says it")
    send.add_argument("--whole", action="store_true", help="all of standard input is one message")
    send.add_argument("--json", action="store_true", help="a message is JSON, not text")
    about = "write what is kept of a channel, and what comes, into a file: each message once, also after a kill"
    consume = sub.add_parser("consume", parents=[where], help=about)
    consume.add_argument("channel")
    consume.add_argument(
        "file", nargs="?", type=Path, help="the file; without it, where standard output goes (>> FILE)"
    )
    about = "write a channel's history to standard output, one JSON line a message"
    replay = sub.add_parser("replay", parents=[where], help=about)
    replay.add_argument("channel", nargs="?", default="general")
    start = replay.add_mutually_exclusive_group()
    start.add_argument("--after", type=offset, default=0, metavar="OFFSET", help="begin behind this offset")
    start.add_argument("--since", metavar="TIME", help="begin at Unix milliseconds or an ISO time")
    replay.add_argument("--follow", action="store_true", help="go on with what comes")


def offset(text: str) -> int:
    """A position in a channel, as an argument."""
    if not (text.isascii() and text.isdigit() and int(text) <= OFFSET_LIMIT):
        raise argparse.ArgumentTypeError(f"an offset is a number from 0 to {OFFSET_LIMIT}, not {text}")
    return int(text)
