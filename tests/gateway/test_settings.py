from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from gateway.auth.principal import Principal
from gateway.models.settings import ModelSettings
from gateway.settings import ServerSettings, Settings, SettingsError, check_exposure, load_settings

SECRET = "a-secret-of-more-than-thirty-two-bytes"


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(config: Path | None = None, env: dict[str, str] | None = None, **flags: object) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(config, env or {}, {name.replace("__", "."): value for name, value in flags.items()})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, ""), {}, {})
    assert settings.server == ServerSettings()
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8000)
    assert settings.store.url == "sqlite:///tidegate.db"
    assert settings.models == {"demo": ModelSettings(provider="demo")}
    assert settings.limits.messages_per_minute == 600
    assert settings.limits.max_frame_bytes == 1024 * 1024
    assert settings.local


def test_every_section(tmp_path: Path) -> None:
    config = write(
        tmp_path,
        f"""
        [server]
        port = 9000
        origins = ["https://chat.example"]
        [store]
        url = "sqlite:////var/lib/tidegate.db"
        [auth.jwt]
        key = "{SECRET}"
        audience = "tidegate"
        [roles.reader]
        permissions = ["context:*", "!tool:shell"]
        [models.fast]
        provider = "openai"
        model = "small"
        base_url = "http://127.0.0.1:1/v1"
        timeouts = {{ connect = 2 }}
        [models.slow]
        provider = "demo"
        [tools]
        modules = ["my_tools"]
        [limits]
        max_steps = 3
        [log]
        ttl = 60
        """,
    )
    settings = load_settings(config, {}, {})
    assert settings.server.origins == ("https://chat.example",)
    assert settings.auth.jwt is not None
    assert settings.auth.jwt.audience == "tidegate"
    assert not settings.local
    assert settings.permissions == {"reader": ("context:*", "!tool:shell")}
    assert list(settings.models) == ["fast", "slow"]
    assert settings.models["fast"].timeouts.connect == 2
    assert settings.tools.modules == ("my_tools",)
    assert (settings.limits.max_steps, settings.log.ttl) == (3, 60)


def test_flags_over_environment_over_file(tmp_path: Path) -> None:
    config = write(tmp_path, "[server]\nhost = '127.0.0.2'\nport = 1\ndrain_seconds = 5")
    env = {"TIDEGATE_SERVER_PORT": "2", "TIDEGATE_SERVER_HOST": "127.0.0.3", "HOME": "/"}
    server = load_settings(config, env, {"server.port": 3, "server.host": None}).server
    assert (server.port, server.host, server.drain_seconds) == (3, "127.0.0.3", 5)


def test_file_of_the_working_directory(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        assert load_settings(None, {}, {}).server.port == 8000
        Path("tidegate.toml").write_text("[server]\nport = 7", encoding="utf-8")
        assert load_settings(None, {}, {}).server.port == 7


@pytest.mark.parametrize(
    ("variable", "text", "key", "expected"),
    [
        ("TIDEGATE_AUTH_JWT_KEY", SECRET, "auth.jwt.key", SECRET),
        ("TIDEGATE_AUTH_LOCAL", "false", "auth.local", False),
        ("TIDEGATE_SERVER_ORIGINS", "https://a, https://b", "server.origins", ("https://a", "https://b")),
        ("TIDEGATE_SERVER_ORIGINS", '["https://a"]', "server.origins", ("https://a",)),
        ("TIDEGATE_LOG_FLUSH_MS", "2.5", "log.flush_ms", 2.5),
        ("TIDEGATE_REDIS_URL", "redis://h", "redis.url", "redis://h"),
        ("TIDEGATE_STORE_URL", "sqlite:///a", "store.urls", ("sqlite:///a",)),
        ("TIDEGATE_STORE_URL", '["sqlite:///a", "sqlite:///b"]', "store.urls", ("sqlite:///a", "sqlite:///b")),
    ],
)
def test_variables(tmp_path: Path, variable: str, text: str, key: str, expected: object) -> None:
    value: object = load_settings(write(tmp_path, ""), {variable: text}, {})
    for name in key.split("."):
        value = getattr(value, name)
    assert value == expected


def test_variables_of_named_sections(tmp_path: Path) -> None:
    config = write(tmp_path, "[models.my-fast_one]\nprovider = 'demo'\nextra = {a = 1}")
    env = {
        "TIDEGATE_MODELS_MY_FAST_ONE_DELAY": "1",
        "TIDEGATE_MODELS_MY_FAST_ONE_TIMEOUTS_CONNECT": "4",
        "TIDEGATE_MODELS_OTHER_API_KEY_ENV": "KEY",
        "TIDEGATE_MODELS_OTHER_PROVIDER": "openai",
        "TIDEGATE_MODELS_OTHER_EXTRA": '{"seed": 1}',
        "TIDEGATE_ROLES_GUEST_PERMISSIONS": "context:*,tool:calculator",
    }
    settings = load_settings(config, env, {})
    assert settings.models["my-fast_one"].delay == 1
    assert settings.models["my-fast_one"].timeouts.connect == 4
    assert settings.models["my-fast_one"].extra == {"a": 1}
    assert settings.models["other"] == ModelSettings(provider="openai", api_key_env="KEY", extra={"seed": 1})
    assert settings.permissions == {"guest": ("context:*", "tool:calculator")}


def test_a_whole_section_as_json(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, ""), {"TIDEGATE_LIMITS": '{"max_steps": 2}'}, {})
    assert settings.limits.max_steps == 2


def test_service_links_of_kubernetes_are_not_settings(tmp_path: Path) -> None:
    env = {
        "TIDEGATE_PORT": "tcp://10.0.0.1:8000",
        "TIDEGATE_SERVICE_HOST": "10.0.0.1",
        "TIDEGATE_SERVICE_PORT_HTTP": "8000",
        "TIDEGATE_PORT_8000_TCP_ADDR": "10.0.0.1",
        "TIDEGATE_SERVER_PORT": "tcp://10.0.0.1:1",
    }
    assert load_settings(write(tmp_path, ""), env, {}) == load_settings(write(tmp_path, ""), {}, {})


def test_data_is_the_place_of_the_default_database(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, ""), {}, {"data": tmp_path}).store.url == f"sqlite:///{tmp_path}/tidegate.db"
    config = write(tmp_path, "store = {url = 'sqlite:///mine.db'}")
    assert load_settings(config, {}, {"data": tmp_path}).store.url == "sqlite:///mine.db"


SOMETIMES = "invalid enum value 'sometimes', expected one of 'always', 'never', 'first'"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[server]\nprt = 1", "server.prt: there is no such setting; did you mean port?"),
        ("[srver]\nport = 1", "srver: there is no such setting; did you mean server?"),
        ("[log]\nzzz = 1", "log.zzz: there is no such setting; expected one of flush_ms, max_bytes, ttl"),
        ("[server]\nport = '1'", "server.port: expected int, got str"),
        ("[server]\nport = 70000", "server.port: expected int <= 65535"),
        ("[server]\norigins = 'x'", "server.origins: expected array, got str"),
        ("server = 1", "server: expected a section [server]"),
        ("[limits]\nmax_unacked = 1", "limits.max_unacked: expected int >= 64"),
        ("[models.x]\ndelay = 1", "models.x.provider: is missing"),
        ("[models.x]\nprovider = 'demo'\ntimeouts = {conect = 1}", "models.x.timeouts.conect: there is no such"),
        ("[roles.x]\npermissions = ['']", "roles.x.permissions: role 'x': ''"),
        ("[roles.x]", "roles.x.permissions: is missing"),
        ("[users.x]\npermissions = ['']", "users.x.permissions: user 'x': ''"),
        ("[users.'acme/']\npermissions = []", "users: 'acme/' is no user, expected 'SUBJECT' or 'TENANT/SUBJECT'"),
        ("[users.'/x']\npermissions = []", "users: '/x' is no user"),
        ("[users.''.x]\npermissions = []", "users..x: there is no such setting"),
        (
            "[users.x]\npermissions = []\n[users.'default/x']\npermissions = []",
            "users.default/x: is the user that [users.x] is about",
        ),
        ("[tools.approval]\npay = 'sometimes'", f"tools.approval.pay: {SOMETIMES}"),
        ("[roles.x]\npermissions = []\napproval.pay = 'sometimes'", f"roles.x.approval.pay: {SOMETIMES}"),
        ("[tools.approval]\npay = 1", "tools.approval.pay: expected str | object, got int"),
        ("[tools.approval]\npay = {when = {}}", "tools.approval.pay: when: expected a parameter with a condition"),
        (
            "[tools.approval]\npay.when.amount.over = 1",
            "tools.approval.pay: when.amount: there is no operator 'over', expected one of equals, not_equals, in",
        ),
        ("[tools.approval]\npay.when.amount.gt = '1'", "tools.approval.pay: when.amount.gt: expected a number"),
        ("[tools.approval]\n'tool:x' = 'never'", "tools.approval: 'tool:x' is not a pattern of tool names such as"),
        (
            "[roles.x]\npermissions = []\napproval.'a b' = 'never'",
            "roles.x.approval: 'a b' is not a pattern of tool names such as",
        ),
        ("[redis]\nurl = ''", "redis.url: expected"),
        ("[redis]\nprefix = 'a b'", "redis.prefix: expected"),
        ("[server]\npublic_url = 'gateway.example'", "server.public_url: expected https://HOST"),
        ("[server]\npublic_url = 'http://gateway.example'", "server.public_url: expected https://"),
        ("[server]\npublic_url = 'https://gateway.example/?a'", "server.public_url: expected https://HOST"),
        ("[encryption]\nkeys = ['secret']", "encryption.keys: expected 32 random bytes in base64 or hex"),
        ("[encryption]\nkey = 'x'", "encryption.key: there is no such setting; did you mean keys?"),
        ("[server]\nworkers = 0", "server.workers: expected int >= 1"),
        ("[server]\ntls_key = 'k'", "server.tls_key: expected server.tls_cert with it"),
        ("[store]\nurl = ['sqlite:///a', 'sqlite:///a']", "store.url: expected a list of different stores"),
        ("[store]\nurl = []", "store.url: expected"),
        ("[auth.jwt]\nissuer = 'x'", "auth.jwt: expected either key or jwks_url"),
        ("[server", "expected TOML"),
    ],
)
def test_a_wrong_file(tmp_path: Path, text: str, problem: str) -> None:
    config = write(tmp_path, text)
    assert refusal(config).startswith(f"{config}: {problem}")


def test_users_and_rules_of_approval(tmp_path: Path) -> None:
    text = """
[users.eve]
permissions = ["!tool:pay"]
[users."acme/https://id.example/eve"]
permissions = ["tool:pay"]
[users."a%2Fb/eve"]
permissions = ["message:system"]
[roles.clerk]
permissions = []
approval = { "pa*" = "first" }
[tools]
approval = { pay = { when = { amount = { gt = 5 } } } }
"""
    env = {"TIDEGATE_ROLES_CLERK_APPROVAL": '{"pay": "always"}'}
    settings = load_settings(write(tmp_path, text), env)
    policy = settings.policy
    assert not policy.may(Principal(tenant="default", subject="eve"), "tool:pay")
    assert policy.may(Principal(tenant="acme", subject="https://id.example/eve", roles=()), "tool:pay")
    assert not policy.may(Principal(tenant="acme/https:", subject="/id.example/eve", roles=()), "tool:pay")
    assert policy.may(Principal(tenant="a/b", subject="eve"), "message:system")
    approvals = settings.approvals
    assert approvals.decide(("clerk",), "pay", "never", {"amount": 1}) == "ask"
    assert approvals.decide(None, "pay", "never", {"amount": 1}) == "run"
    assert approvals.decide(None, "pay", "never", {"amount": 6}) == "ask"


def test_no_such_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.toml") == f"{tmp_path}/none.toml: No such file or directory"


@pytest.mark.parametrize(
    ("variable", "text", "problem"),
    [
        ("TIDEGATE_SERVER_PORT", "x", "server.port: expected int, got str"),
        ("TIDEGATE_SERVER_PRT", "1", "server.prt: there is no such setting; did you mean port?"),
        ("TIDEGATE_MCP_URL", "http://h", "mcp.<name>.url: there is no such setting"),
        ("TIDEGATE_MODELS_X_WHAT", "1", "models.<name>.x_what: there is no such setting"),
        ("TIDEGATE_SERVER_ORIGINS", "[", "expected JSON"),
        ("TIDEGATE_LIMITS", "1", "limits: expected a section [limits]"),
        ("TIDEGATE_SERVER_TLS_CERT", "c", "server.tls_cert: expected server.tls_key with it"),
        ("TIDEGATE_AUTH_JWT_ISSUER", "x", "auth.jwt: expected either key or jwks_url"),
    ],
)
def test_a_wrong_variable(tmp_path: Path, variable: str, text: str, problem: str) -> None:
    assert refusal(write(tmp_path, ""), {variable: text}).startswith(f"{variable}: {problem}")


def test_a_wrong_flag(tmp_path: Path) -> None:
    assert refusal(write(tmp_path, ""), server__port=70000).startswith("--port: server.port: expected int <= 65535")


def test_no_secret_shows(tmp_path: Path) -> None:
    settings = load_settings(
        write(tmp_path, "[models.x]\nprovider = 'openai'\nextra = {token = 'hush'}"),
        {"TIDEGATE_AUTH_JWT_KEY": SECRET, "TIDEGATE_STORE_URL": "sqlite:///hush.db"},
        {},
    )
    assert settings.auth.jwt is not None
    shown = f"{settings!r} {settings} {settings.auth} {settings.store}"
    assert SECRET not in shown
    assert "hush" not in shown
    assert "127.0.0.1" in shown


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_local_mode_on_loopback(host: str) -> None:
    check_exposure(Settings(server=ServerSettings(host=host)))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.com"])  # noqa: S104
def test_no_local_mode_for_other_machines(tmp_path: Path, host: str) -> None:
    flags = {"server.host": host}
    with pytest.raises(SettingsError, match=r"\[auth.jwt\].*tidegate keys create.*127.0.0.1"):
        check_exposure(load_settings(write(tmp_path, ""), {}, flags))
    with pytest.raises(SettingsError, match="no authentication is configured"):
        check_exposure(load_settings(write(tmp_path, f"auth = {{local = true, jwt.key = '{SECRET}'}}"), {}, flags))
    check_exposure(load_settings(write(tmp_path, "auth = {local = false}"), {}, flags))
    check_exposure(load_settings(write(tmp_path, f"auth = {{jwt.key = '{SECRET}'}}"), {}, flags))


TWO_MODELS = '[models.fast]\nprovider = "demo"\n[models.slow]\nprovider = "demo"\ndelay = 5\n'


@pytest.mark.parametrize(
    ("config", "name", "models"),
    [
        ("", "demo", ["demo"]),
        ("", "local", ["local"]),
        (TWO_MODELS, "fast", ["fast", "slow"]),
        (TWO_MODELS, "slow", ["slow", "fast"]),
        (TWO_MODELS, "local", ["local", "fast", "slow"]),
    ],
)
def test_the_flag_picks_the_default_model(tmp_path: Path, config: str, name: str, models: list[str]) -> None:
    settings = load_settings(write(tmp_path, config), {}, {"model": name})
    assert list(settings.models) == models
    assert settings.models[name].provider == (name if name not in ("fast", "slow") else "demo")


def test_the_flag_keeps_what_the_settings_say_of_a_model(tmp_path: Path) -> None:
    config = write(tmp_path, f'{TWO_MODELS}[models.local]\nprovider = "demo"\ndelay = 7\n')
    settings = load_settings(config, {"TIDEGATE_MODELS_LOCAL_MAX_TOKENS": "9"}, {"model": "local"})
    assert list(settings.models) == ["local", "fast", "slow"]
    assert settings.models["local"] == ModelSettings(provider="demo", delay=7, max_tokens=9)
    assert settings.models["slow"].delay == 5


def test_the_flag_names_no_model_that_is_not_there(tmp_path: Path) -> None:
    words = refusal(write(tmp_path, TWO_MODELS), model="openai")
    assert words == "--model: there is no model 'openai', expected one of fast, slow, demo, local"
    assert refusal(write(tmp_path, ""), model="") == "--model: there is no model '', expected one of demo, local"
