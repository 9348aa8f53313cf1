"""`python -m tests.faults.openapi`: schemathesis reads /openapi.json and tries to break what it says for two minutes.

The suite runs the same in short, with one seed (tests/chat/test_openapi.py).
"""

import argparse
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.services import PeykServer, clean_environment

# Not asked: that what the schema allows is accepted (a schema cannot say the whole rule for names, nor "text or data"),
# and that a subscriber who was removed is a 404 (it is the answer `"subscribed": false`).
NOT_ASKED = "positive_data_acceptance,use_after_free"
# Nor that an event is there when it was queued: 202 says it comes, and its channel may be deleted meanwhile.
LATER = """
[[operations]]
include-path = "/api/events/{event}"
checks.ensure_resource_availability.enabled = false
"""


def broken(seconds: float, seed: int, directory: Path) -> str:
    """What was found: a 500, an answer the document does not allow, a traceback in the server's log. Empty: nothing."""
    (directory / "schemathesis.toml").write_text(LATER)
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", "--max-time", f"{seconds:g}"]
    command += ["--seed", str(seed), "--exclude-checks", NOT_ASKED, "--request-timeout", "10"]
    with PeykServer({"HISTORY_LENGTH": "1000", "RPC_ACTIONS": "configs"}) as server:
        done = subprocess.run(
            [*command, f"{server.url}/openapi.json"],
            cwd=directory,
            env=clean_environment({"NO_PROXY": "127.0.0.1"}),
            capture_output=True,
            text=True,
            timeout=seconds * 6,
        )
        log = server.log.read_text()
    found = f"exit code {done.returncode}\n{done.stdout[-6000:]}{done.stderr[-2000:]}" if done.returncode else ""
    return found + log[-4000:] if "Traceback" in log else found


def main() -> int:
    """0 if the server did what its description says, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.openapi", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="of requests (%(default)g)")
    parser.add_argument("--seed", type=int, help="draws the requests (by chance; it is printed)")
    options = parser.parse_args()
    seed = random.randrange(2**31) if options.seed is None else options.seed
    print(f"requests against /openapi.json: seed {seed}, {options.seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        found = broken(options.seconds, seed, Path(directory))
    print(found or "each was answered as the description says")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
