"""The report of what training changed, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from graft_models import TRAINED, unet_tensors, write_family
from multilingual_diffusion.__main__ import main
from multilingual_diffusion.pipeline_core.graft.diff import DiffReport, diff_parents, diff_tensors
from multilingual_diffusion.pipeline_core.graft.parents import open_parent
from multilingual_diffusion.pipeline_core.graft.recipe import block_of, group_of, kind_of
from multilingual_diffusion.pipeline_core.sources import LoadOptions
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("family"))


def compare(old: dict[str, torch.Tensor], new: dict[str, torch.Tensor]) -> DiffReport:
    changes = diff_tensors(old, old.__getitem__, new.__getitem__)
    return DiffReport("old", "new", tuple(changes))


def test_report_of_files(root: Path) -> None:
    base, multilingual = (
        open_parent(role, root / role, LoadOptions()) for role in ("base", "multilingual")
    )
    report = diff_parents(base, multilingual)
    old, new = unet_tensors("sd1", "base"), unet_tensors("sd1", "multilingual")
    changed = {each.name for each in report.tensors if each.changed}
    assert changed == {name for name in old if ".attn2." in name or name == TRAINED}
    group = next(g for g in report.groups if (g.block, g.kind) == ("down_blocks.1", "kv"))
    names = [n for n in old if n.startswith("down_blocks.1.") and kind_of(n) == "kv"]
    moved = sum(float((new[n].double() - old[n].double()).square().sum()) for n in names)
    size = sum(float(old[n].double().square().sum()) for n in names)
    assert group.tensors == group.changed == len(names)
    assert math.isclose(group.relative, math.sqrt(moved / size), rel_tol=1e-12)
    assert "delta-all takes over all of it" in str(report)
    lines = [line for line in str(report).splitlines() if line.startswith("mid_block")]
    assert len(lines) == 3 and lines[-1].split()[1:4] == ["rest", "41", "0"]
    saved = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert {each["name"] for each in saved["changed"]} == changed


def test_advice_follows_what_changed() -> None:
    old = unet_tensors("sd1", "base")

    def grown(mark: str) -> dict[str, torch.Tensor]:
        return {name: value + (mark in name) for name, value in old.items()}

    assert "delta-kv; without the base, replace-kv" in compare(old, grown(".attn2.to_k.")).advice
    assert "delta-attn2" in compare(old, grown(".attn2.to_q.")).advice
    assert "delta-all" in compare(old, grown(".norm2.")).advice
    assert "equal" in compare(old, old).advice
    halves = {name: value.half() for name, value in old.items()}
    assert "equal" in compare(old, halves).advice  # rounding is no training


@pytest.mark.parametrize(
    ("name", "where"),
    [
        (
            "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k.bias",
            "kv down_blocks.0 down",
        ),
        ("mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0.bias", "attn2 mid_block mid"),
        ("up_blocks.3.attentions.1.transformer_blocks.0.attn1.to_k.weight", "rest up_blocks.3 up"),
        ("up_blocks.3.attentions.1.transformer_blocks.0.norm2.weight", "rest up_blocks.3 up"),
        ("time_embedding.linear_1.weight", "rest time_embedding down"),
        ("conv_in.bias", "rest conv_in down"),
        ("conv_norm_out.weight", "rest conv_norm_out up"),
    ],
)
def test_where_a_tensor_belongs(name: str, where: str) -> None:
    assert [kind_of(name), block_of(name), group_of(name)] == where.split()


def test_command_diff(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--models-dir", str(root)]
    assert main(["graft", "diff", "base", "multilingual", *options]) == 0
    assert "all blocks" in capsys.readouterr().out
    assert main(["graft", "diff", "base", "multilingual", "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["base"] == "base"


def test_command_apply(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--models-dir", str(root)]
    target = tmp_path / "x.safetensors"
    command = ["graft", "apply", "community.safetensors", "multilingual", str(target)]
    rest = ["--base", "base", "--strength", "0.5", "--up", "0.4", "--json", *options]
    assert main([*command, *rest]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["record"]["mode"] == "delta-all"
    assert shown["record"]["strengths"] == {"down": 0.5, "mid": 0.5, "up": 0.2}
    found, community = load_file(target), load_file(root / "community.safetensors")
    name = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    assert not torch.equal(found[name], community[name])
    assert main([*command, *options]) == 2 and "exists" in capsys.readouterr().err
    folder = ["graft", "apply", "community", "multilingual", str(tmp_path / "folder"), *options]
    assert main(folder) == 0
    assert "replace-attn2: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["community", "multilingual", "new", "--strength", "2"], 2, "strength is 2.0"),
        (["community", "multilingual", "new", "--mode", "delta-kv"], 2, "needs the base"),
        (["community", "nowhere", "new"], 4, "nowhere"),
        (["multilingual", "community", "new"], 4, "no language to lend"),
    ],
)
def test_command_errors(
    arguments: list[str], code: int, text: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["graft", "apply", *arguments, "--models-dir", str(root)]) == code
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1
