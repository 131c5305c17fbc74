import pytest

from foveate.engines.errors import ModelError
from foveate.models.catalog import catalog_folder, catalog_names
from foveate.models.heads import HEADS
from foveate.models.package import load_package

PERMISSIVE = {"Apache-2.0", "BSD-3-Clause", "MIT"}
NAMES = catalog_names()


def test_the_catalog_has_the_entries_that_the_service_counts_on() -> None:
    assert {"centerface", "yolox_nano", "efficientnet_lite0"} <= set(NAMES)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ModelError, match=r"no model '\.\./centerface' in the catalog"):
        catalog_folder("../centerface")


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_is_whole(name: str) -> None:
    package = load_package(name)
    manifest, head = package.manifest, HEADS[package.manifest.head.kind]
    assert manifest.name == name
    assert manifest.licence in PERMISSIVE
    assert manifest.homepage.startswith("https://")
    assert package.source.kind != "file"
    assert head.roles <= set(manifest.head.outputs) <= head.roles | head.optional
    assert manifest.head.top_k >= manifest.max_detections or manifest.task == "detect"
    assert manifest.sha256 or not manifest.verified


@pytest.mark.parametrize("name", NAMES)
def test_an_input_fits_its_strides(name: str) -> None:
    manifest = load_package(name).manifest
    if manifest.head.kind in ("yolox", "centernet"):
        assert manifest.input.width_px % 32 == 0
        assert manifest.input.height_px % 32 == 0


def test_only_what_was_downloaded_here_claims_it() -> None:
    assert [name for name in NAMES if load_package(name).manifest.verified] == ["centerface", "efficientnet_lite0"]
