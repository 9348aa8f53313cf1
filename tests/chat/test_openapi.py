"""Schemathesis reads /openapi.json and tries to break what it says: no 500, no answer the document does not allow."""

import subprocess
import sys
from pathlib import Path

from tests.services import PeykServer, clean_environment

SECONDS = 15
# Not asked: that what the schema allows is accepted (a schema cannot say the whole rule for names, nor "text or data"),
# and that a subscriber who was removed is a 404 (it is the answer `"subscribed": false`).
NOT_ASKED = "positive_data_acceptance,use_after_free"


def test_the_server_does_what_its_description_says(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", "--max-time", str(SECONDS), "--seed", "1"]
    with PeykServer({"HISTORY_LENGTH": "1000", "RPC_ACTIONS": "configs"}) as server:
        done = subprocess.run(
            [*command, "--exclude-checks", NOT_ASKED, "--request-timeout", "10", f"{server.url}/openapi.json"],
            cwd=tmp_path,
            env=clean_environment({"NO_PROXY": "127.0.0.1"}),
            capture_output=True,
            text=True,
            timeout=SECONDS * 6,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert "Traceback" not in server.log.read_text()
