"""What the README says is so: its settings are the settings, its commands run."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import AppSettings, parser
from chat.version import SERVER
from tests.services import ROOT, PeykServer, clean_environment, wait_until

README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def server() -> Iterator[PeykServer]:
    with PeykServer() as server:
        yield server


def shell_blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


def here(command: str, server: PeykServer) -> str:
    """A README command, against the test's server."""
    return command.replace("localhost:5000", f"127.0.0.1:{server.port}").replace("data/", f"{server.dir}/")


def run(command: str) -> str:
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_settings_table_is_the_settings() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| .*? \| (.*) \|$", README, re.MULTILINE))
    fields = {name.upper(): field.description for name, field in AppSettings.model_fields.items()}
    assert rows == fields


def test_each_default_in_the_table_is_the_default() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \| .* \|$", README, re.MULTILINE))
    for name, field in AppSettings.model_fields.items():
        if name != "data_dir":
            default = int(field.default) if isinstance(field.default, bool) else field.default
            assert rows[name.upper()] == (f"`{default}`" if str(default or "") or default == 0 else "–"), name


def test_each_guarantee_names_a_test_that_exists() -> None:
    section = README[README.index("## Guarantees") : README.index("## Design")]
    named = re.findall(r"`([a-z0-9_/]+\.py)::(test_\w+)`", section)
    assert len(named) == section.count("\n| ") - 1  # the table's head
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), test


def test_every_command_in_the_readme_exists() -> None:
    written = {line.split("`")[1] for line in README.splitlines() if line.startswith("| `python app.py")}
    known = {"python app.py"}
    for action in parser()._subparsers._group_actions:  # type: ignore[union-attr]
        known |= {f"python app.py {name}" for name in action.choices or {}}
    assert {command.removesuffix(" CHANNEL") for command in written} == known


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^    make ([a-z]+)", README, re.MULTILINE)) <= targets
    assert "make run" in README and "make test" in README


def test_the_numbers_are_numbers() -> None:
    rows = re.findall(r"^\| S\d\w* \| .*? \| (.*) \|$", README, re.MULTILINE)
    assert len(rows) == 4
    assert all(re.search(r"\d", row) and "_" not in row for row in rows), rows


def test_the_files_named_in_the_design_exist() -> None:
    named = re.findall(r"`?((?:chat|pipeline|bridge|bench|tests)/[a-z_/]+\.(?:py|lua|c))", README)
    assert len(set(named)) > 8
    for name in named:
        assert (ROOT / name).is_file(), name


def test_the_curl_commands_publish_and_read_back(server: PeykServer) -> None:
    publish, read, follow = [here(line, server) for line in shell_blocks()[0].strip().splitlines()]
    posted = json.loads(run(publish.replace("curl", "curl -sS", 1)))
    assert posted["offset"] == 1 and posted["id"].startswith("1-") and posted["epoch"]
    page = json.loads(run(read.replace("curl", "curl -sS", 1)))
    assert [p["data"] for p in page["publications"]] == [{"text": "hi"}]
    assert page["epoch"] == posted["epoch"]

    following = follow.replace("curl", "exec curl -sS", 1)
    process = subprocess.Popen(["bash", "-c", following], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(":")
        run(publish.replace("curl", "curl -sS", 1))
        lines = iter(process.stdout.readline, "")
        data = next(line for line in lines if line.startswith("data: "))
        assert json.loads(data.removeprefix("data: "))["offset"] == 2
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_redis_cli_shows_a_readable_history(server: PeykServer) -> None:
    run(here(shell_blocks()[0].splitlines()[0], server).replace("curl", "curl -sS", 1))
    shown = run(here(shell_blocks()[1].strip(), server))
    assert "message:general" in shown and '{"text":"hi"}' in shown


def test_status_and_replay_run_as_written(server: PeykServer) -> None:
    run(here(shell_blocks()[0].splitlines()[0], server).replace("curl", "curl -sS", 1))
    env = clean_environment({"DATA_DIR": str(server.dir)})

    def app(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "app.py", *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "fanout" in app("status")
    assert json.loads(app("replay", "general").splitlines()[0])["data"] == {"text": "hi"}


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_calls_answer_as_written(server: PeykServer) -> None:
    configs, total = [
        here(line, server).replace("curl", "curl -sS", 1) for line in shell_blocks()[2].strip().splitlines()
    ]
    assert json.loads(run(configs))["version"] == SERVER
    example = python_blocks()[0]
    env = clean_environment({"REDIS_URL": f"unix://{server.dir}/valkey.sock"})
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=ROOT, env=env, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "{'total': 3}\n", done.stderr
    lasting = example.replace(
        'print(await rpc.call("sum", [1, 2]))', 'print("ready", flush=True), await asyncio.sleep(60)'
    )
    process = subprocess.Popen([sys.executable, "-c", lasting], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        assert json.loads(run(total)) == {"total": 3}
        done = subprocess.run(
            [sys.executable, "app.py", "rpc", "sum", "[4, 5]"], cwd=ROOT, env=env, capture_output=True, text=True
        )
        assert done.stdout == '{"total":9}\n', done.stderr
        sent = [sys.executable, "app.py", "rpc", "--send", "sum", "[1]"]
        assert subprocess.run(sent, cwd=ROOT, env=env, capture_output=True, text=True).stdout == ""
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_the_five_functions_work_as_written(server: PeykServer) -> None:
    env = clean_environment({"REDIS_URL": f"unix://{server.dir}/valkey.sock", "DATA_DIR": str(server.dir)})
    command = [sys.executable, "-W", "error", "-c", python_blocks()[1]]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=180)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"\[\d\d:\d\d\] app: hello\n", done.stdout)
    assert re.search(
        r"\nConsumed \d+ messages from channel general\nMessage published to channel general\n$", done.stdout
    )


def test_the_page_answers(server: PeykServer) -> None:
    wait_until(lambda: "<title>Peyk" in run(f"curl -sS {server.url}/"), what="the page")


def test_the_pictures_are_there_and_small() -> None:
    pictures = re.findall(r'src="(docs/[^"]+)"', README)
    assert pictures
    for name in pictures:
        assert 0 < (ROOT / name).stat().st_size < 150 * 1024, name


def test_nothing_here_names_a_machine() -> None:
    for path in [ROOT / "README.md", ROOT / "CHANGES.md", ROOT / "Makefile", *Path(ROOT / ".ci").iterdir()]:
        assert not re.search(r"/(work|root|home|tmp)/", path.read_text()), path
