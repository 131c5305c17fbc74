"""What outputs a program is told to have, in TOML or in words, and that no refusal quotes a password."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from foveate.engines.errors import ConfigError
from foveate.tools.outputs import open_outputs, spec_from_text, specs_from_tables
from foveate.tools.outputs.address import address_from_url, with_variables
from foveate.tools.outputs.mqtt import TopicTemplate
from foveate.tools.outputs.naming import name_part
from foveate.tools.outputs.specs import JsonLinesSpec, MqttSpec, VideoSpec, WebhookSpec

SECRET = "hunter2"
WEB = {"http": None, "https": None}
BROKER = {"mqtt": 1883, "mqtts": 8883}


def test_every_kind_from_toml() -> None:
    text = """
    [[output]]
    kind = "jsonl"
    path = "results.jsonl"
    [[output]]
    kind = "video"
    folder = "recordings"
    segment_minutes = 5
    cameras = ["yard-*"]
    [[output]]
    kind = "webhook"
    name = "alarm"
    url = "https://example.org/${TOKEN}"
    headers = {Authorization = "Bearer ${TOKEN}"}
    labels = ["person"]
    min_interval_s = 60
    [[output]]
    kind = "mqtt"
    url = "mqtts://me:${PASSWORD}@broker"
    topic = "home/{camera}/seen"
    """
    lines, video, webhook, mqtt = specs_from_tables(tomllib.loads(text)["output"])
    assert isinstance(lines, JsonLinesSpec)
    assert lines.wanted.when == "all"
    assert isinstance(video, VideoSpec)
    assert (video.folder, video.segment_minutes, video.queue) == (Path("recordings"), 5.0, 50)
    assert isinstance(webhook, WebhookSpec)
    assert (webhook.name, webhook.wanted.when, webhook.wanted.labels) == ("alarm", "detections", frozenset({"person"}))
    assert isinstance(mqtt, MqttSpec)
    assert (mqtt.topic, mqtt.qos, mqtt.wanted.when) == ("home/{camera}/seen", 1, "ok")
    assert "TOKEN" not in repr(webhook), "not even the name"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-", JsonLinesSpec(path=Path("-"))),
        ("out/results.ndjson", JsonLinesSpec(path=Path("out/results.ndjson"))),
        ("jsonl:/tmp/x y", JsonLinesSpec(path=Path("/tmp/x y"))),
        ("video:my recordings segment_minutes=2.5", VideoSpec(folder=Path("my recordings"), segment_minutes=2.5)),
        ("https://h:1/p?q=1", WebhookSpec(url=SecretStr("https://h:1/p?q=1"))),
        (
            "http://h when=ok every=5 labels=dog,cat",
            WebhookSpec(url=SecretStr("http://h"), when="ok", every=5, labels=frozenset({"cat", "dog"})),
        ),
        ("mqtt://u:p@h:1", MqttSpec(url=SecretStr("mqtt://u:p@h:1"))),
        ("mqtts://h/home/{camera} qos=2 retain=yes", None),
    ],
)
def test_every_kind_from_a_word(text: str, expected: Any) -> None:
    if expected is None:
        expected = MqttSpec(url=SecretStr("mqtts://h"), topic="home/{camera}", qos=2, retain=True)
    assert spec_from_text(text) == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"ftp://me:{SECRET}@h", "cannot tell what kind"),
        (SECRET, "cannot tell what kind"),
        (f"http://me:{SECRET}@h evry=5", "evry"),
        (f"http://me:{SECRET}@h every={SECRET}", "every"),
        (f"mqtt://me:{SECRET}@h qos=7", "qos"),
        (f"http://me:{SECRET}@h when=never", "when"),
    ],
)
def test_what_is_wrong_is_named_and_no_value_quoted(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        spec_from_text(text)
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_wrong_table_is_named_by_its_number() -> None:
    tables: list[dict[str, Any]] = [{"kind": "jsonl", "path": "-"}, {"kind": "mqtt", "url": SECRET, "qs": 1}]
    with pytest.raises(ConfigError, match=r"output 2: mqtt\.qs") as caught:
        specs_from_tables(tables)
    assert SECRET not in str(caught.value)


def test_an_address_is_taken_apart_with_the_variables_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_PASSWORD", "p@ss/%41:#")
    address = address_from_url("mqtts://me%40home:${BROKER_PASSWORD}@broker.example", BROKER, "x")
    assert (address.host, address.port, address.path) == ("broker.example", 8883, "")
    assert (address.user, address.password) == ("me@home", "p@ss/%41:#"), "a variable's value stands as it is"
    assert str(address) == "mqtts://broker.example:8883"
    assert "p@ss" not in repr(address)
    assert "me@home" not in repr(address)
    hook = address_from_url("https://[::1]:8443/a/${BROKER_PASSWORD}?b=c", WEB, "x")
    assert (hook.host, hook.path, str(hook)) == ("::1", "/a/p@ss/%41:#?b=c", "https://[::1]:8443")


@pytest.mark.parametrize(
    "url",
    [
        f"ftp://h/{SECRET}",
        f"{SECRET}",
        f"http://me:{SECRET}@",
        f"http://me:{SECRET}@h:port",
        f"http://me:{SECRET}@h:99999",
        f"http://me:{SECRET}@[h",
        f"http://me:{SECRET}@h..h",
        f"http://{'x' * 64}:{SECRET}@{'y' * 64}",
        f"http://h/{SECRET} x",
        f"http://me:12/{SECRET}@h",
        f"http://me:12?{SECRET}@h",
        f"http://me#{SECRET}@h",
        f"http://me:{SECRET}${{NO_SUCH_VARIABLE}}@h",
    ],
)
def test_a_url_that_cannot_be_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ConfigError, match="output alarm: url") as caught:
        address_from_url(url, WEB, "output alarm: url")
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(ConfigError, match="variable NO_SUCH_VARIABLE, which is not set"):
        with_variables("Bearer ${NO_SUCH_VARIABLE}", "output alarm: headers.Authorization")
    assert with_variables("$5 {x} $", "x") == "$5 {x} $"


def test_names_are_the_kinds_or_ones_own(tmp_path: Path) -> None:
    specs = [JsonLinesSpec(path=tmp_path / str(each)) for each in range(3)]
    named = JsonLinesSpec(path=tmp_path / "named", name="jsonl-2")
    with open_outputs([*specs, named]) as outputs:
        assert list(outputs.counts) == ["jsonl", "jsonl-3", "jsonl-4", "jsonl-2"]
    with pytest.raises(ConfigError, match="two outputs are called jsonl-2"):
        open_outputs([named, named])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("/no/such/folder/x.jsonl", "No such file"),
        ("video:/dev/null/x", "cannot make the folder"),
        ("mqtt://h topic=a/#", "without"),
        ("mqtt://h topic=a/{name}", "expected one like"),
        ("mqtt://h status_topic=a/+", "status topic"),
        ("mqtts://h ca_file=/no/such.pem", "certificates"),
        ("https://h ca_file=/no/such.pem", "certificates"),
        ("https://h ca_file=/dev/null", "certificates"),
    ],
)
def test_what_cannot_work_is_refused_at_once(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        open_outputs([spec_from_text(text)])


@pytest.mark.parametrize(
    ("library", "module", "text"),
    [("urllib3", "webhook", "http://h"), ("paho.mqtt", "mqtt", "mqtt://h"), ("av", "segment", "video:{folder}")],
)
def test_a_library_that_is_missing_is_named_with_the_extra_that_has_it(
    library: str, module: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (module, "video"):
        monkeypatch.delitem(sys.modules, f"foveate.tools.outputs.{name}", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=r"install foveate\[camera\]"):
        open_outputs([spec_from_text(text.format(folder=tmp_path))])


def test_only_what_is_used_is_imported() -> None:
    code = "import sys, foveate.tools.outputs; print({'av', 'cv2', 'paho', 'urllib3'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"set()\n"


def test_a_header_that_cannot_be_is_refused_without_its_value() -> None:
    spec = WebhookSpec(url=SecretStr("http://h"), headers={"X-Key": SecretStr(f"{SECRET}\r\nEvil: 1")})
    with pytest.raises(ConfigError, match="header") as caught:
        open_outputs([spec])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("names", [["a/b", "a%2Fb", "a+b", "a_b"], [".", "..", "%2E", "x\x00", "$SYS", "SYS"]])
def test_cameras_share_no_names_and_lead_nowhere(names: list[str]) -> None:
    parts = [name_part(name) for name in names]
    assert len(set(parts)) == len(names)
    assert not any(set(part) & set("/+#\x00") or part in (".", "..") for part in parts)


def test_a_topic_has_the_cameras_name_in_it() -> None:
    assert TopicTemplate("home/{camera}/seen").topic("yard/1 ü") == "home/yard%2F1 ü/seen"
    assert TopicTemplate("all").topic("yard") == "all"
