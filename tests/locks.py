"""The locks: what the lists of requirements lead to, with hashes. `make lock` writes them, `make check` compares.

A lock says whose list it is of by that list's digest, so that comparing asks nobody.
"""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCKS = {
    "requirements.lock": ["requirements.txt"],
    "requirements-dev.lock": ["requirements-dev.txt", "requirements.lock"],
}
"""Each lock and the files it follows from; the list itself comes first."""

_PIN = re.compile(r"([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?==([^\s;]+)")


def pins(text: str) -> dict[str, str]:
    """Package and version of each line that pins one."""
    found = (_PIN.match(line) for line in text.splitlines())
    return {re.sub(r"[-_.]+", "-", match[1]).lower(): match[2] for match in found if match}


def digest(root: Path, lock: str) -> str:
    """Of the files that a lock follows from."""
    text = "\0".join((root / name).read_text() for name in LOCKS[lock])
    return hashlib.sha256(text.encode()).hexdigest()


def faults(root: Path) -> list[str]:
    """What is wrong with the locks, in words."""
    found = []
    for lock, lists in LOCKS.items():
        text = (root / lock).read_text()
        locked = pins(text)
        if f"# {digest(root, lock)}\n" not in text:
            found.append(f"{lock} is not of {lists[0]} as it is now; run: make lock")
        for name in lists:
            wanted = pins((root / name).read_text()).items()
            found += [
                f"{lock} lacks {package}=={version}" for package, version in wanted if locked.get(package) != version
            ]
        bare = [line for line in re.sub(r"\\\n", "", text).splitlines() if _PIN.match(line) and "--hash=" not in line]
        found += [f"{lock}: no hash for {line}" for line in bare]
        if re.search(r"://|--(extra-)?index-url|--find-links", text):
            found.append(f"{lock} names an index")
    return found


def write(root: Path) -> None:
    """Resolve for every platform and for every Python from 3.11 on."""
    for lock, (source, *before) in LOCKS.items():
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes"]
        command += ["--no-annotate", "--no-header", "--no-config", "--python-version", "3.11", "--output-file", lock]
        (root / lock).unlink(missing_ok=True)
        subprocess.run([*command, *(f"--constraints={name}" for name in before), source], cwd=root, check=True)
        text = (root / lock).read_text()
        head = f"# Written by `make lock` from {source}; the digest says from which.\n# {digest(root, lock)}\n"
        (root / lock).write_text(head + text)


if __name__ == "__main__":
    if sys.argv[1:] == ["write"]:
        write(ROOT)
    for fault in faults(ROOT):
        print(f"locks: {fault}", file=sys.stderr)
    sys.exit(bool(faults(ROOT)))
