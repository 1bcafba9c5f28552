"""Makes `.venv` and installs what `requirements.lock` pins, then the project itself.

Debian's python3 comes without ensurepip. There pip's own wheel is fetched from the package index, with the standard
library alone, and checked against the digest below. Uses pip's settings PIP_INDEX_URL, PIP_CERT and SSL_CERT_FILE.
"""

from __future__ import annotations

import hashlib
import html
import os
import re
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urljoin
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
PIP_WHEEL = "pip-26.3-py3-none-any.whl"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"


def main() -> int:
    try:
        if not _usable():
            _create()
        _run(PYTHON, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", ROOT / "requirements.lock")
        _run(PYTHON, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", ROOT)
    except subprocess.CalledProcessError as error:
        print(f"setup failed: {' '.join(map(str, error.cmd))}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"setup failed: {error}", file=sys.stderr)
        return 1
    return 0


def _usable() -> bool:
    """Whether `.venv` stands, with a Python that is new enough, and a pip."""
    check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    if not PYTHON.exists():
        return False
    return subprocess.run([PYTHON, "-c", check], check=False, capture_output=True).returncode == 0  # noqa: S603


def _create() -> None:
    if _has_ensurepip():
        _run(sys.executable, "-m", "venv", "--clear", VENV)
        return
    _run(sys.executable, "-m", "venv", "--clear", "--without-pip", VENV)
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(folder, PIP_WHEEL)
        wheel.write_bytes(_fetch_pip())
        # A wheel is a zip archive, and pip runs from one.
        _run(PYTHON, wheel / "pip", "install", "--quiet", "--no-index", "--no-deps", wheel)


def _has_ensurepip() -> bool:
    try:
        from ensurepip import bootstrap  # noqa: F401
    except ImportError:
        return False
    return True


def _fetch_pip() -> bytes:
    """pip's wheel; raises OSError or ValueError, with what to do."""
    index = (os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple").rstrip("/") + "/pip/"
    page = _get(index).decode()
    link = next((link for link in re.findall(r'href="([^"]+)"', page) if f"/{PIP_WHEEL}" in link), None)
    if link is None:
        raise ValueError(f"{index} has no {PIP_WHEEL}; install python3-venv instead")
    wheel = _get(urljoin(index, html.unescape(link)))
    if hashlib.sha256(wheel).hexdigest() != PIP_SHA256:
        raise ValueError(f"the {PIP_WHEEL} of {index} is not the expected file")
    return wheel


def _get(url: str) -> bytes:
    certificates = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    try:
        with urlopen(url, timeout=60, context=ssl.create_default_context(cafile=certificates)) as response:  # noqa: S310
            return response.read()
    except URLError as error:
        raise OSError(f"can't fetch {url} ({error.reason}); install python3-venv instead") from error


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, cwd=ROOT)  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
