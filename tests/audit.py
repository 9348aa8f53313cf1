"""Known vulnerabilities of what is installed, as pip-audit finds them; part of `make check`.

    python -m tests.audit [PIP-AUDIT]

A finding fails. Where the index does not answer, or knows nothing of these packages, that is said and nothing fails.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

TIMEOUT = 5  # seconds the index has to answer each request
LONGEST = 300  # seconds, all in all
_NO_ANSWER = re.compile(r"ConnectionError|ProxyError|SSLError|Timeout|ServiceError|HTTPError")


def audit(command: str) -> int:
    """Run pip-audit; the exit code."""
    options = ["--local", "--format", "json", "--progress-spinner", "off", "--timeout", str(TIMEOUT)]
    try:
        done = subprocess.run([command, *options], capture_output=True, text=True, timeout=LONGEST, check=False)
    except subprocess.TimeoutExpired:
        print(f"pip-audit: no result within {LONGEST} s; not audited")
        return 0
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        if not _NO_ANSWER.search(done.stderr):
            print(done.stdout + done.stderr, end="", file=sys.stderr)
            return 1
        print(f"pip-audit: the index does not answer; not audited ({done.stderr.strip().splitlines()[-1][:200]})")
        return 0
    known = [package for package in packages if "vulns" in package]
    findings = [(package, found) for package in known for found in package["vulns"]]
    for package, found in findings:
        fixed = ", ".join(found.get("fix_versions", [])) or "nothing yet"
        print(f"pip-audit: {package['name']} {package['version']}: {found['id']}, fixed in {fixed}", file=sys.stderr)
    if not known:
        print(f"pip-audit: the index knows none of the {len(packages)} packages; not audited")
    elif not findings:
        print(f"pip-audit: no known vulnerability in {len(known)} of {len(packages)} packages; the others are unknown")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(audit(sys.argv[1] if len(sys.argv) > 1 else str(Path(sys.executable).with_name("pip-audit"))))
