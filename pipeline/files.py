"""Files that nobody else may read: messages, and the secret that tokens are signed with, lie in DATA_DIR."""

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from redis_config import ConfigError

logger = logging.getLogger(__name__)

UMASK = 0o077
_OPEN = 0o077  # the bits of a mode that let others in
_OURS = ("valkey.", "appendonlydir", "lock", "start.lock", "peyk.sqlite", "demo")  # how names of ours begin
_HAS_MODES = os.name == "posix"


def private_directory(path: Path) -> None:
    """Make the directory, or see to it that others cannot read what is in it. Raises ConfigError and OSError.

    One that others may enter is closed if all that it holds is ours: /var/lib, say, is not ours to close.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _HAS_MODES:
        return
    entries = list(path.iterdir())
    if _mode(path) & _OPEN:
        foreign = [entry.name for entry in entries if not entry.name.startswith(_OURS)]
        if foreign:
            raise ConfigError(
                f"DATA_DIR {path} is open to others (mode {_mode(path):o}) and holds things that are not Peyk's "
                f"({foreign[0]}); set DATA_DIR to a directory of its own, or run: chmod 700 {path}"
            )
        _close(path, 0o700)
    for entry in _within([entry for entry in entries if entry.name.startswith(_OURS)]):
        _close(entry, 0o700)


def private_file(path: Path) -> None:
    """Make an empty file that only we may read, or close one that is there. Raises ConfigError and OSError."""
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    elif _HAS_MODES and path.is_file():
        _close(path, 0o700)


def _within(entries: list[Path]) -> Iterator[Path]:
    """These and what is below them; links are not followed."""
    for entry in entries:
        if entry.is_symlink():
            continue
        yield entry
        if entry.is_dir():
            yield from _within(list(entry.iterdir()))


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def _close(path: Path, mask: int) -> None:
    """Take from others what they may do with it."""
    try:
        mode = _mode(path)
        if mode & _OPEN:
            path.chmod(mode & mask)
            logger.warning("%s was open to others (mode %o); now it is not", path, mode)
    except FileNotFoundError:  # gone meanwhile
        pass
    except PermissionError:
        remedy = f"run as its owner: chmod {mode & mask:o} {path}, or set DATA_DIR to a directory that Peyk makes"
        raise ConfigError(f"others can read {path} (mode {mode:o}), and it is not ours to close; {remedy}") from None
