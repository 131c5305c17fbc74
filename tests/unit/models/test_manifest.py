from pathlib import Path

import pytest

from foveate.engines.errors import ConfigError
from foveate.models.manifest import manifest_from_file, manifest_from_text
from support.packages import MANIFEST


def test_fields_come_from_the_text_and_the_rest_has_defaults() -> None:
    manifest = manifest_from_text(MANIFEST, "here")
    assert (manifest.name, manifest.task) == ("brightest", "classify")
    assert (manifest.input.width_px, manifest.input.height_px) == (16, 8)
    assert manifest.input.colour == "rgb"
    assert manifest.head.outputs == {"logits": "logits"}
    assert manifest.sha256 == ""
    assert manifest.verified is False


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('task = "classify"', 'task = "detect"', "belongs to task 'classify'"),
        ("width_px = 16", "width_px = 4", "input.width_px"),
        ('name = "brightest"', 'name = "../escape"', "name"),
        ('licence = "CC0-1.0"', "", "licence"),
        ('licence = "CC0-1.0"', 'licence = "CC0-1.0"\nlicense = "x"', "license"),
        ('licence = "CC0-1.0"', 'licence = "CC0-1.0"\nsha256 = "ABC"', "sha256"),
        ('kind = "logits"', 'kind = "unheard_of"', "head.kind"),
    ],
)
def test_a_fault_names_its_field_and_the_file(old: str, new: str, named: str) -> None:
    assert old in MANIFEST
    with pytest.raises(ConfigError, match=r"there\.toml is not a model manifest") as caught:
        manifest_from_text(MANIFEST.replace(old, new), "there.toml")
    assert named in str(caught.value)


def test_text_that_is_not_toml_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"there\.toml is not TOML"):
        manifest_from_text("name = ", "there.toml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no model manifest at .*absent"):
        manifest_from_file(tmp_path / "absent" / "model.toml")


def test_a_manifest_is_frozen() -> None:
    manifest = manifest_from_text(MANIFEST, "here")
    with pytest.raises(ValueError, match="frozen"):
        manifest.name = "other"  # type: ignore[misc]
