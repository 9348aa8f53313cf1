"""The page's files: read and compressed once, at start, and asked for again by their ETags, so that an upgrade never
mixes old and new."""

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from chat.headers import PAGE_POLICY

WEB = Path(__file__).parent / "web"
PAGE = "index.html"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, as it is and as most browsers take it."""

    plain: bytes
    packed: bytes
    headers: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "Asset":
        plain = path.read_bytes()
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        headers = {"content-type": kind if kind.startswith("image/") else f"{kind}; charset=utf-8"}
        headers |= {"cache-control": "no-cache", "vary": "accept-encoding"}
        headers |= {"etag": f'W/"{hashlib.sha256(plain).hexdigest()[:16]}"'}  # W/: one for both encodings
        if path.name == PAGE:
            headers |= {"content-security-policy": PAGE_POLICY}
        return cls(plain, gzip.compress(plain, 9, mtime=0), headers)

    def answer(self, request: Request) -> Response:
        if self.headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=self.headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.packed, headers=self.headers | {"content-encoding": "gzip"})
        return Response(self.plain, headers=self.headers)


class Assets:
    """All files of the page, by name."""

    def __init__(self, directory: Path = WEB) -> None:
        self._files = {path.name: Asset.read(path) for path in sorted(directory.iterdir())}

    @property
    def weight(self) -> int:
        """Bytes a browser loads for the page, headers aside."""
        return sum(len(asset.packed) for asset in self._files.values())

    async def page(self, request: Request) -> Response:
        return self._files[PAGE].answer(request)

    async def file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._files or name == PAGE:
            raise HTTPException(404)
        return self._files[name].answer(request)
