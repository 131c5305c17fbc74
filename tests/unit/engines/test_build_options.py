from __future__ import annotations

from typing import Any

import pytest

from foveate.engines import BatchRange, BuildFailed, BuildOptions, ConfigError, Target
from foveate.engines.build_options import BUILD_PRECISIONS
from foveate.engines.precision import PRECISIONS


@pytest.mark.parametrize(
    ("text", "batch"), [("1:8:16", BatchRange(1, 8, 16)), ("4", BatchRange(1, 4, 4)), ("2:2:2", BatchRange(2, 2, 2))]
)
def test_a_batch_is_three_numbers_or_one(text: str, batch: BatchRange) -> None:
    assert BatchRange.parse(text) == batch
    assert BatchRange.parse(str(batch)) == batch


@pytest.mark.parametrize("text", ["", "1:2", "1:2:3:4", "a", "0", "2:1:3", "1:4:3", "-1:1:1"])
def test_another_batch_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="batch"):
        BatchRange.parse(text)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("default", Target()),
        ("this", Target("this")),
        ("ampere_plus", Target("ampere_plus")),
        ("sm_120, sm_89,sm_89", Target("listed", ("sm_89", "sm_120"))),
    ],
)
def test_a_target_is_a_kind_or_a_list(text: str, target: Target) -> None:
    assert Target.parse(text) == target
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize("text", ["", "listed", "sm_", "89", "sm_89,default", "SM89"])
def test_another_target_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="a target is one of default, this"):
        Target.parse(text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backend": "tvm"}, "no backend is called 'tvm'"),
        ({"precision": "fp4"}, "no precision is called 'fp4'"),
        ({"workspace_mib": 0}, "at least 1"),
        ({"backend": "onnxruntime", "target": Target("this")}, "no GPU in particular"),
        ({"backend": "onnxruntime", "version_compatible": True}, "no GPU in particular"),
        ({"exclude": ("conv",)}, "int8 or fp8 only, not from fp32"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BuildOptions(**fields)


@pytest.mark.parametrize(("precision", "name"), [("fp8", "sm_86"), ("fp8", "sm_80"), ("bf16", "sm_75")])
def test_a_precision_that_a_gpu_does_not_have_is_refused(precision: str, name: str) -> None:
    with pytest.raises(BuildFailed, match=f"{name} has no {precision} arithmetic"):
        BuildOptions(precision=precision, target=Target.parse(f"{name},sm_89"))
    BuildOptions(precision=precision, target=Target.parse("sm_89,sm_120"))


def test_the_precisions_are_those_of_the_conversion() -> None:
    assert BUILD_PRECISIONS == PRECISIONS


def test_pictures_are_for_the_quantised_precisions() -> None:
    assert [name for name in BUILD_PRECISIONS if BuildOptions(precision=name).quantised] == ["int8", "fp8"]
