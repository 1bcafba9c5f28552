"""The command line: what it prints, and how it refuses."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SECRET = "a-secret-of-more-than-thirty-two-bytes"


def tidegate(folder: Path, *arguments: str, config: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "settings.toml").write_text(config)
    place = ["--config", str(folder / "settings.toml"), "--data", str(folder / "data")]
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", *arguments, *place], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_key_is_printed_alone_and_once(tmp_path: Path) -> None:
    made = tidegate(tmp_path, "keys", "create", "--subject", "ann", "--tenant", "acme", "--role", "reader")
    key = made.stdout.strip()
    assert made.returncode == 0
    assert key.startswith("tg_")
    assert len(made.stdout.splitlines()) == 1
    listed = tidegate(tmp_path, "keys", "list").stdout
    assert "acme/ann" in listed
    assert "role=reader" in listed
    assert key not in listed
    assert key.encode() not in (tmp_path / "data" / "tidegate.db").read_bytes()


def test_a_key_is_revoked_once(tmp_path: Path) -> None:
    tidegate(tmp_path, "keys", "create", "--subject", "ann")
    key_id = tidegate(tmp_path, "keys", "list").stdout.split()[0]
    assert tidegate(tmp_path, "keys", "revoke", key_id).returncode == 0
    assert "revoked" in tidegate(tmp_path, "keys", "list").stdout
    again = tidegate(tmp_path, "keys", "revoke", key_id)
    assert again.returncode == 1
    assert "tidegate keys list" in again.stderr


def test_the_schema_names_every_frame(tmp_path: Path) -> None:
    schema = json.loads(tidegate(tmp_path, "schema").stdout)
    assert {"SendMessage", "ToolCall", "Snapshot"} <= schema["$defs"].keys()
    assert "export interface Snapshot" in tidegate(tmp_path, "schema", "--typescript").stdout


def test_migrate_says_what_it_applied(tmp_path: Path) -> None:
    applied = tidegate(tmp_path, "migrate").stdout.splitlines()
    assert applied[0] == "applied 0001_initial"
    assert applied == sorted(applied)
    assert tidegate(tmp_path, "migrate").stdout == "the schema is up to date\n"


def test_a_token_is_signed_by_the_configured_key(tmp_path: Path) -> None:
    config = f'[auth.jwt]\nkey = "{SECRET}"\n'
    assert tidegate(tmp_path, "token", "--subject", "ann", config=config).stdout.count(".") == 2
    without = tidegate(tmp_path, "token", "--subject", "ann")
    assert without.returncode == 1
    assert "keys create" in without.stderr


def test_the_doctor_finds_what_is_missing(tmp_path: Path) -> None:
    well = tidegate(tmp_path, "doctor")
    assert well.returncode == 0
    assert "fail" not in well.stdout
    config = (
        '[models.gpt]\nprovider = "openai"\nmodel = "x"\napi_key_env = "NO_SUCH_KEY"\n[tools]\nmodules = ["no_such"]\n'
    )
    ill = tidegate(tmp_path, "doctor", config=config)
    assert ill.returncode == 1
    assert "NO_SUCH_KEY" in ill.stdout
    assert "no_such" in ill.stdout


def told_by_the_doctor(folder: Path, config: str) -> list[str]:
    examined = tidegate(folder, "doctor", config=config)
    assert examined.returncode == 1
    assert examined.stderr == ""
    return [line for line in examined.stdout.splitlines() if line.startswith("fail")]


def test_the_doctor_reads_the_settings_first(tmp_path: Path) -> None:
    (line,) = told_by_the_doctor(tmp_path, "[server]\nprot = 1\n")
    assert "server.prot" in line


def test_the_doctor_tries_the_key_of_tokens(tmp_path: Path) -> None:
    (line,) = told_by_the_doctor(tmp_path, '[auth.jwt]\nkey = "short"\n')
    assert "auth.jwt.key" in line


def test_the_doctor_tries_the_certificate(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    (line,) = told_by_the_doctor(tmp_path, f'[server]\ntls_cert = "{missing}"\ntls_key = "{missing}"\n')
    assert f"server.tls_cert: {missing}" in line
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    (line,) = told_by_the_doctor(tmp_path, f'[server]\ntls_cert = "{text}"\ntls_key = "{text}"\n')
    assert "expected PEM files" in line


def test_the_doctor_tells_what_a_module_raises_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_tools.py").write_text('raise RuntimeError("two\\nlines")\n')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (line,) = told_by_the_doctor(tmp_path, '[tools]\nmodules = ["broken_tools"]\n')
    assert line.endswith("RuntimeError: two lines")


def test_the_doctor_knows_the_names_that_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "from gateway.tools.native import tool\n\n\n@tool\ndef calculator(x: int) -> int:\n    return x\n"
    (tmp_path / "second_tools.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (line,) = told_by_the_doctor(tmp_path, '[tools]\nmodules = ["second_tools"]\n')
    assert "calculator" in line


@pytest.mark.parametrize(
    ("arguments", "config", "words"),
    [
        (["serve", "--host", "0.0.0.0"], "", "keys create"),  # noqa: S104 - refused
        (["serve"], "[server]\nprot = 1\n", "server.prot"),
        (["serve"], '[store]\nurl = "mysql://x"\n', "sqlite:///FILE"),
        (["serve"], '[models.x]\nprovider = "nobody"\n', "models.x.provider"),
        (["serve"], '[tools]\nmodules = ["no_such_module"]\n', "no_such_module"),
        (["serve"], '[auth.jwt]\nkey = "short"\n', "auth.jwt.key"),
        (["serve"], '[server]\ntls_cert = "no.pem"\ntls_key = "no.pem"\n', "server.tls_cert"),
        (["serve", "--host", "no-such-host.invalid"], "[auth]\nlocal = false\n", "server.host"),
        (["token", "--subject", "ann", "--role", "x"], f'[auth.jwt]\nkey = "{SECRET}"\n', "roles_claim"),
    ],
)
def test_what_cannot_be_served_is_one_line(tmp_path: Path, arguments: list[str], config: str, words: str) -> None:
    refused = tidegate(tmp_path, *arguments, config=config)
    assert refused.returncode != 0
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = tidegate(tmp_path, "serve", "--port", str(port))
    assert refused.returncode == 1
    assert f"127.0.0.1:{port} is taken" in refused.stderr
    assert "--port" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    refused = tidegate(tmp_path, "keys", "list")
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
