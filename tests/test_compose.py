"""The production files, where no container engine runs: their syntax, their settings, and what they would run."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from app import AppSettings
from tests.services import ROOT, PeykServer, RedisProcess, clean_environment, wait_until
from tests.test_readme import README

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
INSTRUCTIONS = {"FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "VOLUME", "EXPOSE", "HEALTHCHECK", "CMD"}
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?::([?-])([^}]*))?\}")
SECRET = re.compile(r"SECRET|PASS(WORD)?$")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in lines if line.strip()]


def copied() -> list[tuple[str, str]]:
    """What the Dockerfile copies: a path here, and the directory or name in the image."""
    pairs = []
    for name, rest in instructions():
        if name == "COPY":
            *sources, target = shlex.split(rest)
            pairs += [(source, target) for source in sources]
    return pairs


def test_every_setting_of_peyk_exists_and_is_in_the_readme() -> None:
    known = {name.upper() for name in AppSettings.model_fields}
    inside = {pair.split("=")[0] for name, rest in instructions() if name == "ENV" for pair in shlex.split(rest)}
    named = set(SERVICES["peyk"]["environment"]) | inside - {"PYTHONUNBUFFERED"}
    assert named <= known and {"AUTH_SECRET", "REDIS_HOST", "HTTP_HOST", "DATA_DIR"} <= named
    assert all(f"| `{name}` |" in README for name in named)


def test_the_settings_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICES["peyk"]["environment"].items():
        monkeypatch.setenv(name, VARIABLE.sub(lambda found: found[3] if found[2] == "-" else "x" * 32, value))
    settings = AppSettings()
    assert settings.auth_secret.get_secret_value() == settings.redis_password == "x" * 32
    assert settings.redis_host == "redis" and not settings.redis_url


def test_secrets_come_from_the_environment_and_have_no_default() -> None:
    used: dict[str, bool] = {}  # a variable, and whether its absence is an error
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            if SECRET.search(name):
                assert VARIABLE.fullmatch(value), f"{name} is written down"
            for variable, kind, _ in VARIABLE.findall(value):
                assert not (SECRET.search(variable) and kind == "-"), f"{variable} has a default"
                used[variable] = used.get(variable, False) or kind == "?"
            passwords = re.findall(r"://[^:@/]*:([^@]*)@", value)
            assert all(VARIABLE.fullmatch(password) for password in passwords), f"{name} holds a password"
    assert {name for name, needed in used.items() if SECRET.search(name) and needed} == {
        "AUTH_SECRET",
        "REDIS_PASSWORD",
        "POSTGRES_PASSWORD",
        "MONGO_PASSWORD",
        "RABBITMQ_PASSWORD",
    }
    written = re.search(r"^for name in ([A-Z_ ]+); do", README, re.MULTILINE)
    assert written and set(written[1].split()) == {name for name, needed in used.items() if needed}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_pinned_watched_and_comes_back(name: str) -> None:
    service = SERVICES[name]
    assert re.search(r":\d", service["image"]), "an image without a version"
    assert service["restart"] == "unless-stopped"
    check = service["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL") and {"interval", "timeout", "retries"} <= check.keys()
    for volume in service["volumes"]:
        assert volume.split(":")[0] in COMPOSE["volumes"]
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), "published beyond this machine"
    assert set(service.get("depends_on", ())) <= SERVICES.keys()


def test_the_dockerfile_can_be_read() -> None:
    names = [name for name, _ in instructions()]
    assert set(names) <= INSTRUCTIONS and names[0] == "FROM" and names[-1] == "CMD"
    given = dict(instructions())
    assert re.fullmatch(r"python:3\.11-slim-\w+", given["FROM"]) and given["USER"] not in ("root", "0")
    assert names.index("USER") > max(i for i, name in enumerate(names) if name in ("RUN", "COPY"))
    assert json.loads(given["CMD"]) == ["python", "app.py", "serve"]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {source for source, _ in copied()} == kept
    check = json.loads(given["HEALTHCHECK"].partition("CMD ")[2])
    assert check == SERVICES["peyk"]["healthcheck"]["test"][1:]


def test_the_image_holds_all_that_peyk_needs(tmp_path: Path) -> None:
    """What would be copied is copied, and serves; the health check says so."""
    for source, target in copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, tmp_path / target)

    class Image(PeykServer):
        def command(self) -> list[str]:
            return [sys.executable, str(tmp_path / "app.py"), "serve", "--port", str(self.port)]

    check = [sys.executable, *SERVICES["peyk"]["healthcheck"]["test"][2:]]
    with Image() as server:
        healthy = [word.replace(":5000/", f":{server.port}/") for word in check]
        assert healthy != check
        wait_until(lambda: subprocess.run(healthy, capture_output=True, timeout=180).returncode == 0, what="ready")
        server.stop()
        assert subprocess.run(healthy, capture_output=True, timeout=180).returncode != 0


def test_redis_runs_as_written_and_peyk_takes_it(tmp_path: Path) -> None:
    """The very command, on this machine's Redis: password, append-only file, no eviction."""

    class Composed(RedisProcess):
        def command(self) -> list[str]:
            shell, option, script = SERVICES["redis"]["command"]
            more = f"redis-server - --bind 127.0.0.1 --port {self.port} --dir {shlex.quote(str(self.dir))}"
            return [shell, option, script.replace("$$", "$").replace("redis-server -", more, 1)]

        def environment(self) -> dict[str, str]:
            return clean_environment({"REDIS_PASSWORD": self.password})

    process = Composed("redis")
    process.password = "it's a secret $HOME"
    with process:
        client = redis.Redis(port=process.port, password=process.password, decode_responses=True)
        told = {
            name: client.config_get(name)[name] for name in ("appendonly", "appendfsync", "maxmemory-policy", "save")
        }
        assert told == {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}
        assert process.password not in Path(f"/proc/{process.pid}/cmdline").read_text()
        client.close()
        done = subprocess.run(
            [sys.executable, "app.py", "status"],
            cwd=ROOT,
            env=clean_environment({"REDIS_PORT": str(process.port), "REDIS_PASSWORD": process.password}),
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stderr
        assert process.stop() == 0, "the process that is told to stop is Redis, not a shell before it"
