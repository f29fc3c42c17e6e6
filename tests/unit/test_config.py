"""gateway.yaml: defaults, variables, paths, and what is refused."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from gateway.config import (
    DEFAULT_MODELS,
    Settings,
    is_loopback,
    load,
    packaged_policies,
    require_admin_key,
    runtime_dir,
    socket_path,
)
from gateway.errors import ConfigError


def written(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> Settings:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    return load(file, env=env or {})


class TestDefaults:
    def test_without_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        settings = load(env={})
        assert [model.name for model in settings.config.models] == [model.name for model in DEFAULT_MODELS]
        assert (settings.config.server.host, settings.config.server.port) == ("127.0.0.1", 8080)
        assert settings.data_dir == Path.home() / ".local/share/farthing"
        assert settings.policies_dir == packaged_policies()
        assert settings.file == ""

    def test_an_empty_file_is_the_defaults(self, tmp_path: Path) -> None:
        settings = written(tmp_path, "")
        assert [model.name for model in settings.config.models] == [model.name for model in DEFAULT_MODELS]

    def test_the_file_may_be_named_by_the_environment(self, tmp_path: Path) -> None:
        (tmp_path / "g.yaml").write_text("server: {port: 9000}")
        assert load(env={"GATEWAY_CONFIG": str(tmp_path / "g.yaml")}).config.server.port == 9000

    def test_a_policies_folder_beside_the_file_is_taken(self, tmp_path: Path) -> None:
        assert written(tmp_path, "").policies_dir == packaged_policies()
        (tmp_path / "policies").mkdir()
        assert written(tmp_path, "").policies_dir == tmp_path / "policies"
        assert written(tmp_path, "policies: {dir: elsewhere}").policies_dir == tmp_path / "elsewhere"

    def test_the_packaged_policies_are_the_repositorys(self) -> None:
        assert (packaged_policies() / "default.yaml").is_file()


class TestVariables:
    MODEL = 'models: [{name: m, provider: openai, api_key: "%s"}]'

    def test_a_variable_is_filled_in(self, tmp_path: Path) -> None:
        model = written(tmp_path, self.MODEL % "${THE_KEY}", {"THE_KEY": "sk-1"}).model("m")
        assert model is not None
        assert model.api_key == "sk-1"

    @pytest.mark.parametrize("env", [{}, {"THE_KEY": ""}])
    def test_one_that_is_not_set_is_none(self, tmp_path: Path, env: dict[str, str]) -> None:
        model = written(tmp_path, self.MODEL % "${THE_KEY}", env).model("m")
        assert model is not None
        assert model.api_key is None

    def test_inside_a_text(self, tmp_path: Path) -> None:
        text = 'models: [{name: m, provider: openai_compatible, base_url: "http://${HOST}:${PORT}/v1"}]'
        model = written(tmp_path, text, {"HOST": "h", "PORT": "1"}).model("m")
        assert model is not None
        assert model.base_url == "http://h:1/v1"

    def test_a_secret_written_out_is_warned_about_with_its_line(self, tmp_path: Path) -> None:
        text = "auth: {admin_key: abc}\nmodels:\n  - name: m\n    provider: openai\n    api_key: sk-real\n"
        first, second = written(tmp_path, text).warnings
        assert first.endswith("gateway.yaml:1: admin_key is written out; use ${ENV_NAME} instead")
        assert "gateway.yaml:5: api_key is written out" in second
        assert written(tmp_path, self.MODEL % "${THE_KEY}").warnings == ()

    def test_folders_may_be_set_by_the_environment(self, tmp_path: Path) -> None:
        env = {"GATEWAY_DATA_DIR": str(tmp_path / "d"), "GATEWAY_MODELS_DIR": "m"}
        settings = written(tmp_path, "data_dir: /nowhere", env)
        assert (settings.data_dir, settings.models_dir) == (tmp_path / "d", tmp_path / "m")


class TestModels:
    def test_kinds(self, tmp_path: Path) -> None:
        settings = written(
            tmp_path,
            "models:\n"
            "  - {name: here, local: smollm2}\n"
            "  - {name: there, provider: litellm, upstream_model: anthropic/claude}\n"
            "  - {name: plain, provider: openai}\n",
        )
        kinds = [(model.kind, model.is_local, model.upstream_name) for model in settings.config.models]
        assert kinds == [
            ("local", True, "smollm2"),
            ("litellm", False, "anthropic/claude"),
            ("openai", False, "plain"),
        ]
        assert settings.model("nobody") is None

    @pytest.mark.parametrize(
        ("model", "told"),
        [
            ("{name: m}", "give either 'local' or 'provider'"),
            ("{name: m, local: a, provider: openai}", "give either 'local' or 'provider'"),
            ("{name: auto, local: a}", "'auto' is reserved for policies"),
            ("{name: 'auto:x', local: a}", "'auto' is reserved for policies"),
            ("{name: m, provider: openai_compatible}", "provider openai_compatible needs 'base_url'"),
            ("{name: m, provider: litellm}", "provider litellm needs 'upstream_model'"),
            (
                "{name: m, provider: openai, price: {input: -1, output: 1}}",
                "a price cannot be negative",
            ),
            ("{name: m, provider: openai_compatible, base_url: '10.0.0.7:8000/v1'}", "begins with http:// or https://"),
            (
                "{name: m, provider: openai_compatible, base_url: [http://a/v1, b/v1]}",
                "begins with http:// or https://",
            ),
            ("{name: m, local: a, url: 'ftp://a'}", "begins with http:// or https://"),
            ("{name: m, local: a, usd_per_hour: -1}", ">= 0"),
            ("{name: m, local: a, usd_per_hour: .inf}", "a number must be finite"),
            ("{name: m, local: /models/a.gguf}", "'local' is the name of a model of the catalogue"),
            ("{name: m, provider: openai, timeout: 0}", "> 0"),
            ("{name: m, provider: openai, price: {input: .nan, output: 1}}", "infinite or no number"),
            ("{name: '', local: a}", "a name has 1 to 256 printable characters"),
            ('{name: "a\\nb", local: a}', "a name has 1 to 256 printable characters"),
            ("{name: m, provider: azure}", "Invalid enum value 'azure'"),
            ("{name: m, provider: openai, api_kye: x}", "unknown key 'api_kye' (did you mean 'api_key'?)"),
        ],
    )
    def test_what_is_refused_is_told_with_its_line(self, tmp_path: Path, model: str, told: str) -> None:
        with pytest.raises(ConfigError) as error:
            written(tmp_path, f"models:\n  - {{name: first, local: a}}\n  - {model}\n")
        assert told in str(error.value)
        assert error.value.line == 3

    def test_one_name_twice(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="model 'a' is defined twice"):
            written(tmp_path, "models:\n  - {name: a, local: x}\n  - {name: a, local: y}\n")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("server: {workers: 0}", "at least one worker"),
        ("server: {port: 70000}", r"a port is 0\.\.65535"),
        ("server: {prot: 1}", r"unknown key 'prot' \(did you mean 'port'\?\)"),
        ("sever: {}", r"unknown key 'sever' \(did you mean 'server'\?\)"),
        ("server: 3", "Expected `object`, got `int`"),
        ("server: {max_concurrent: 0}", ">= 1"),
        ("server: {drain_seconds: .inf}", "<= 86400"),
        ("alerts: {budgets: [0.8, .nan]}", "a number must be finite"),
        ("redis: {url: 'localhost:6379'}", "begins with redis:// or rediss:// or unix://"),
        ("ledger: {url: 'postgresql://h/db'}", r"begins with postgresql\+asyncpg://"),
        ("embedder: {url: 'localhost:9/v1'}", "begins with http:// or https://"),
        ("embedder: {price: {input: 0.02}}", "what this machine serves itself has no 'price'"),
        ("embedder: {url: 'http://h/v1', price: {input: .nan}}", "must be finite|>= 0"),
        ("embedder: {url: 'http://h/v1', price: {input: .inf}}", "must be finite"),
        ("cache: {cross_encoder: {model: m, price: {input: 1}}}", "what this machine serves itself has no 'price'"),
        ("alerts: {webhook: 'hooks.slack.com/x'}", "begins with http:// or https://"),
        ("telemetry: {otlp: 'localhost:4317'}", "begins with http:// or https://"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        written(tmp_path, text)


@pytest.mark.parametrize("local", ["smollm2-135m-instruct", "file:/models/it.gguf", "hf:owner/repo/it-Q4_0.gguf"])
def test_a_local_model_is_named_or_said_where(tmp_path: Path, local: str) -> None:
    assert written(tmp_path, f"models: [{{name: m, local: '{local}'}}]\n").config.models[0].local == local


def test_an_address_with_a_variable_is_seen_to_where_it_is_used(tmp_path: Path) -> None:
    text = "models:\n  - {name: m, provider: openai_compatible, base_url: '${HOST_OF_M}/v1'}\n"
    assert written(tmp_path, text).config.models[0].base_urls == ("/v1",)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.yaml", env={})


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
        ("127.0.0.1.evil.example", False), ("10.0.0.7", False), ("", False),
    ],
)  # fmt: skip
def test_loopback(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer


def test_a_bind_beyond_loopback_needs_an_admin_key(tmp_path: Path) -> None:
    require_admin_key(written(tmp_path, "server: {host: 127.0.0.1}"))
    require_admin_key(written(tmp_path, "server: {host: 0.0.0.0}", {"GATEWAY_ADMIN_KEY": "x"}))
    with pytest.raises(ConfigError, match="reachable from other machines"):
        require_admin_key(written(tmp_path, "server: {host: 0.0.0.0}"))


def test_sockets_fit_in_104_bytes_however_deep_the_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    deep = Path("/" + "/".join(["a-rather-long-folder-name"] * 12))
    assert len(str(socket_path(deep, "chat-smollm2-135m-instruct"))) <= 104
    assert runtime_dir(deep) != runtime_dir(deep / "other")
    assert runtime_dir(deep) == runtime_dir(deep)


def test_where_it_is_installed_the_policies_are_a_package_of_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.config.__file__", str(tmp_path / "site" / "gateway" / "config.py"))
    installed = ModuleSpec("farthing_policies", None, is_package=True)
    installed.submodule_search_locations = [str(tmp_path / "data")]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: installed)
    assert packaged_policies() == tmp_path / "data"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="packaged policies are missing"):
        packaged_policies()


def test_a_socket_of_a_model_written_out_is_a_short_name_of_its_own() -> None:
    written = "chat-hf:bartowski/Llama-3.2-1B-Instruct-GGUF/Llama-3.2-1B-Instruct-Q4_K_M.gguf"
    sockets = {socket_path(Path("/data"), name) for name in (written, written.replace("Q4_K_M", "Q8_0"))}
    assert len(sockets) == 2
    assert all(path.parent == runtime_dir(Path("/data")) and len(str(path)) <= 104 for path in sockets)
