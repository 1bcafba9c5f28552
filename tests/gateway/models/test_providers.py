"""Providers of installed packages, with a real one: tests/gateway/models/third_party."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from gateway.models.providers import BUILT_IN, GROUP, build_provider, provider_names
from gateway.models.settings import ModelSettings, ModelSettingsError
from tests.e2e.gateways import GatewayProcess
from tests.e2e.wire import Wire

ROOT = Path(__file__).parent.parent.parent.parent
PARROT = """
[models.main]
provider = "parrot"
extra = { word = "polly" }
"""


def install(source: Path, target: Path) -> Path:
    """The directory with the package installed as pip does it, for PYTHONPATH."""
    # Built from a copy, since a build may write beside its sources.
    copy = shutil.copytree(source, target.with_name(f"{target.name} source"))
    options = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", target, copy], check=True)
    return target


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(Path(__file__).parent / "third_party", tmp_path_factory.mktemp("installed") / "parrot")


def tidegate(folder: Path, config: str, *path: Path, command: str = "doctor", **env: str) -> str:
    """What `tidegate doctor` says of the settings, with these directories on its path."""
    (folder / "tidegate.toml").write_text(config)
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", command, "--config", folder / "tidegate.toml", "--data", folder],
        env=os.environ | env | {"PYTHONPATH": os.pathsep.join(map(str, [ROOT, *path])), "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def config(provider: str) -> str:
    return f'[models.main]\nprovider = "{provider}"\nmodel = "x"\nbase_url = "http://127.0.0.1:1"\n'


async def test_a_gateway_answers_with_the_provider_of_a_package(tmp_path: Path, parrot: Path) -> None:
    gateway = GatewayProcess(tmp_path, config=PARROT)
    try:
        await gateway.start(PYTHONPATH=os.pathsep.join([str(ROOT), str(parrot)]), PARROT="!")
        async with Wire(gateway.ws, gateway.key()) as wire:
            await wire.hello()
            events = await wire.turn("hello", "chat")
    finally:
        gateway.kill()
    assert [e["content"] for e in events if e["type"] == "message" and e["role"] == "assistant"] == ["POLLY!"]


def test_its_own_errors_are_the_settings(tmp_path: Path, parrot: Path) -> None:
    said = tidegate(tmp_path, config("parrot"), parrot)
    assert "models.main.extra.word: is missing; expected what to say" in said


def test_an_unknown_provider_is_told_what_is_installed(tmp_path: Path, parrot: Path) -> None:
    said = tidegate(tmp_path, config("antropic"), parrot)
    assert (
        'models.main.provider: there is no "antropic"; expected one of "anthropic", "broken", "constant", "demo", '
        '"local", "openai", "parrot"'
    ) in said


@pytest.mark.parametrize(
    ("provider", "extra", "words"),
    [
        ("broken", "", "can't be imported: ImportError: its library is not there"),
        ("constant", "", "is no function (tidegate_parrot:WORD); expected build(name, spec, environ)"),
        ("parrot", "extra = { word = 7 }\n", "failed with AttributeError ("),
    ],
)
@pytest.mark.parametrize("command", ["doctor", "serve"])
def test_a_package_that_fails_is_named_in_one_line(
    tmp_path: Path, parrot: Path, provider: str, extra: str, words: str, command: str
) -> None:
    said = tidegate(tmp_path, config(provider) + extra, parrot, command=command)
    (line,) = [line for line in said.splitlines() if "models.main.provider" in line]
    assert f'models.main.provider: "{provider}" of the package tidegate-parrot 1.2 {words}' in line
    assert "Traceback" not in said


def test_a_package_does_not_replace_a_built_in_provider(tmp_path: Path, parrot: Path) -> None:
    said = tidegate(tmp_path, config("openai"), parrot)
    assert "provider openai, x" in said
    assert "a package can't replace a built-in provider" in said
    assert "tidegate-parrot 1.2" in said


def test_two_packages_with_one_provider_are_named(tmp_path: Path, parrot: Path) -> None:
    source = shutil.copytree(Path(__file__).parent / "third_party", tmp_path / "macaw")
    project = source / "pyproject.toml"
    project.write_text(project.read_text().replace("tidegate-parrot", "tidegate-macaw"))
    said = tidegate(tmp_path, PARROT, parrot, install(source, tmp_path / "installed"))
    assert (
        'models.main.provider: "parrot" is claimed by the package tidegate-macaw 1.2 and the package '
        "tidegate-parrot 1.2; expected one of them to be installed"
    ) in said


def test_ours_are_entry_points_as_well() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        declared = tomllib.load(file)["project"]["entry-points"][GROUP]
    assert declared == BUILT_IN
    assert set(BUILT_IN) <= set(provider_names())


@pytest.mark.parametrize("provider", BUILT_IN)
def test_each_of_ours_is_there_and_needs_no_sdk_to_say_what_is_missing(provider: str) -> None:
    build = EntryPoint(provider, BUILT_IN[provider], GROUP).load()
    assert callable(build)
    spec = ModelSettings(provider=provider, context_window=10, max_tokens=20, model="x", base_url="http://127.0.0.1:1")
    with pytest.raises(ModelSettingsError, match=r"^models\.main\."):
        build_provider("main", spec, {})
