"""Settings: a file, then the environment, then flags; whatever is wrong is named, and all of it prints as TOML."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.engines.errors import ConfigError
from foveate.service.config import (
    DEFAULT_PIPELINES,
    EngineConfig,
    Limits,
    PipelineConfig,
    ServiceConfig,
    config_from_json,
    load_config,
    only_pipelines,
)
from foveate.service.config_text import config_text

SOURCES = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.upper().startswith("FOVEATE_")]:
        monkeypatch.delenv(name)


def written(folder: Path, text: str) -> Path:
    path = folder / "foveate.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_anything_the_defaults_hold() -> None:
    config = load_config()
    assert config.listen == "127.0.0.1:50051", "not open to the network unless asked to be"
    assert config.pipelines == dict(DEFAULT_PIPELINES)
    assert config.default_pipeline_name == "faces"
    assert config.limits == Limits()


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(
        tmp_path, 'listen = "file:1"\ndefault_budget_ms = 1\ndrain_grace_ms = 1\n[limits]\nmax_streams = 1\n'
    )
    monkeypatch.setenv("FOVEATE_DEFAULT_BUDGET_MS", "2")
    monkeypatch.setenv("FOVEATE_DRAIN_GRACE_MS", "2")
    config = load_config(file, drain_grace_ms=3, resume_s=None)
    assert (config.listen, config.default_budget_ms, config.drain_grace_ms) == ("file:1", 2, 3)
    assert config.resume_s == ServiceConfig.model_fields["resume_s"].default, "a flag that is None was not given"
    assert config.limits.max_streams == 1


def test_the_environment_sets_one_field_of_a_section_and_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, "[limits]\nmax_streams = 5\nmax_pixels = 1000\n")
    monkeypatch.setenv("FOVEATE_LIMITS__MAX_STREAMS", "7")
    assert load_config(file).limits == Limits(max_streams=7, max_pixels=1000)


def test_naming_a_pipeline_replaces_the_default_ones(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, '[pipelines.mine]\nmodel = "x"\n[pipelines.mine.engine]\nmax_batch = 3\n'))
    assert config.pipelines == {"mine": PipelineConfig(model="x", engine=EngineConfig(max_batch=3))}
    assert config.default_pipeline_name == "mine"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("lisen = 1", "lisen"),
        ("[limits]\nmax_stream = 1", "limits.max_stream"),
        ('[pipelines.a]\nmodel = "m"\nmin_skore = 1', "pipelines.a.min_skore"),
        ('[pipelines.a]\nmodel = "m"\n[pipelines.a.engine]\nthread = 1', "pipelines.a.engine.thread"),
        ("[limits]\nmax_streams = 0", "limits.max_streams"),
        ('default_budget_ms = "soon"', "default_budget_ms"),
        ("resume_s = nan", "resume_s"),
        ("resume_s = inf", "resume_s"),
        ('[pipelines.a]\nmodel = "m"\n[pipelines.a.engine]\nprofile_s = inf', "pipelines.a.engine.profile_s"),
        ("[pipelines]", "pipelines: name at least one"),
        ('default_pipeline = "b"', "default_pipeline 'b' is not one of: faces, objects, imagenet"),
        ("listen = ", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(text: str, named: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert named in str(caught.value)
    assert str(file) in str(caught.value)


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, "lisen = 1\nresume_s = -1\n[limits]\nmax_streams = 0\n"))
    for named in ("lisen", "resume_s", "limits.max_streams"):
        assert named in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("FOVEATE_LIMITS__MAX_STREAM", "1", "limits.max_stream"),
        ("FOVEATE_DEFAULT_BUDGET_MS", "soon", "default_budget_ms"),
        ("FOVEATE_LIMITS", "not json", "limits"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(
    name: str, value: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load_config()
    assert named in str(caught.value)


def test_a_flag_that_is_wrong_is_named() -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        load_config(nonsense=1)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration at .*none\.toml: No such file"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes('listen = "Büro:1"'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.toml"):
        load_config(tmp_path / "latin.toml")


def test_a_file_leaves_nothing_behind_for_the_next(tmp_path: Path) -> None:
    load_config(written(tmp_path, "drain_grace_ms = 77"))
    assert load_config().drain_grace_ms != 77
    with pytest.raises(ConfigError):
        load_config(written(tmp_path, "drain_grace_ms = -77"))
    assert load_config().drain_grace_ms >= 0


def test_settings_cannot_be_changed_later() -> None:
    config = load_config()
    with pytest.raises(ValueError, match="frozen"):
        config.listen = "elsewhere:1"  # type: ignore[misc]


def test_only_some_pipelines() -> None:
    config = load_config(default_pipeline="faces")
    fewer = only_pipelines(config, ["objects", "faces"])
    assert list(fewer.pipelines) == ["objects", "faces"]
    assert fewer.default_pipeline_name == "objects"
    assert fewer.limits == config.limits
    assert len(config.pipelines) == 3
    with pytest.raises(ConfigError, match="no pipeline 'birds' is configured: expected one of faces, objects"):
        only_pipelines(config, ["faces", "birds"])


def test_settings_cross_to_another_process_whatever_its_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(drain_grace_ms=5, limits=Limits(max_streams=3), model_store=Path("/some/where"))
    monkeypatch.setenv("FOVEATE_DRAIN_GRACE_MS", "9")
    monkeypatch.setenv("FOVEATE_SHARED_MEMORY", "false")
    assert config_from_json(config.model_dump_json()).model_dump() == config.model_dump()


def assert_reads_back(config: ServiceConfig, folder: Path) -> None:
    assert load_config(written(folder, config_text(config))) == config


def test_the_default_settings_read_back_and_say_what_each_one_means(tmp_path: Path) -> None:
    text = config_text(load_config())
    assert_reads_back(load_config(), tmp_path)
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if " = " in line and not line.startswith("# "):
            assert lines[number - 1].startswith("# "), f"{line} has no comment"
    parsed = tomllib.loads(text)
    assert set(parsed) >= set(ServiceConfig.model_fields) - {"model_store", "engine_store", "trace"}


# What a TOML file can hold: no lone surrogates, and no control characters but those that JSON escapes too.
words = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
names = words.filter(bool)
pipelines = st.builds(
    PipelineConfig,
    model=words,
    min_score=st.none() | st.floats(0, 1),
    max_detections=st.none() | st.integers(1, 1000),
    engine=st.builds(EngineConfig, max_batch=st.integers(1, 256), profile_s=st.floats(1e-3, 1e6)),
)


@given(
    fields=st.fixed_dictionaries(
        {
            "pipelines": st.dictionaries(names, pipelines, min_size=1, max_size=3),
            "limits": st.builds(Limits, max_streams=st.integers(1, 10**6)),
            "resume_s": st.floats(0, 1e9),
            "listen": words,
            "fetch": st.booleans(),
            "model_store": st.none() | st.just(Path("/tmp/models with space")),
        }
    )
)
def test_any_settings_read_back(fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    config = load_config(**fields)
    assert_reads_back(config, tmp_path_factory.getbasetemp())


OTHERS_VARIABLES = {
    "engines/foveate/engines/engine_choice.py": "CUDA's own: which GPUs this process sees",
    "engines/foveate/engines/torch_engine.py": "OpenMP's own, set before torch is imported",
    "models/foveate/models/huggingface.py": "the hub's own, as all of its clients read them",
    "service/foveate/service/engine_process.py": "CUDA's own, set before it is loaded",
    "tools/foveate/tools/gpu_report/__main__.py": "handed on to the jobs, with the paths of the libraries laid beside",
    "tools/foveate/tools/gpu_report/child.py": "as above",
    "tools/foveate/tools/outputs/address.py": "the operator's own, named in an output's address for its password",
}
"""Who touches the environment besides the configuration, and what for: none of it is a setting of ours."""


def test_nothing_but_the_configuration_reads_settings_from_the_environment() -> None:
    readers = set()
    for root in ("service", "engines", "models", "tools"):
        for path in sorted((SOURCES / root).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
                if name in ("environ", "getenv", "environb"):
                    readers.add(str(path.relative_to(SOURCES)))
    assert readers - set(OTHERS_VARIABLES) == {"service/foveate/service/config.py"}
    assert set(OTHERS_VARIABLES) <= readers, "whoever no longer reads it is to be taken off the list"


def test_a_misspelt_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOVEATE_LISTEM", "127.0.0.1:1")
    with pytest.raises(ConfigError, match="FOVEATE_LISTEM, which is no setting: expected one of FOVEATE_LISTEN"):
        load_config()
