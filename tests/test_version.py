"""One version, said in one place."""

import re

from chat.routes import document
from chat.version import SERVER, VERSION
from tests.services import ROOT

_SAID = re.compile(r"peyk \d+\.\d|^VERSION = \"", re.MULTILINE)


def test_no_other_file_says_it() -> None:
    code = [path for path in [*ROOT.glob("*.py"), *ROOT.glob("chat/**/*")] if path.suffix in (".py", ".js", ".html")]
    assert [path.name for path in code if _SAID.search(path.read_text())] == ["version.py"]
    assert f"peyk {VERSION}" == SERVER


def test_the_description_of_the_http_api_says_it() -> None:
    assert document()["info"]["version"] == VERSION
