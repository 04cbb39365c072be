"""The command, run in this process: exit codes, one-line errors, files, replay from a picture."""

from __future__ import annotations

import json
from pathlib import Path

import layouts
import pytest
from multilingual_diffusion.pipeline_core.cli import main
from PIL import Image, ImageChops


def open_picture(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.copy()


def largest_difference(one: Path, other: Path) -> int:
    """Return the largest difference of two pictures, in 8-bit levels."""
    bands = ImageChops.difference(open_picture(one), open_picture(other)).getextrema()
    return max(high for _, high in bands)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "tiny-m9"
    return layouts.write_diffusers_folder(path, "m9", weights="safetensors", null_checkers=True)


@pytest.fixture
def generate(model: Path, tmp_path: Path):
    def run(*options: str) -> int:
        common = ["--model", str(model), "--out", str(tmp_path / "out"), "--steps", "2"]
        size = ["--width", "64", "--height", "64"]
        return main(["generate", *common, *size, *options])

    return run


def test_two_prompts_and_a_grid(generate, tmp_path: Path, capsys) -> None:
    assert generate("--prompt", "a dog", "--prompt", "\u72d7", "--grid", "--seed", "3") == 0
    output = capsys.readouterr()
    paths = [Path(line) for line in output.out.splitlines()]
    assert len(paths) == 3 and all(path.is_file() for path in paths)
    assert open_picture(paths[0]).size == (64, 64) and open_picture(paths[2]).width > 128
    assert "no safety checker" in output.err


def test_json_lines_tell_everything(generate, capsys) -> None:
    assert generate("--prompt", "a dog", "--n", "2", "--seed", "5", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["index"] for row in rows] == [0, 1]
    assert rows[0]["request"]["prompts"] == ["a dog"] and rows[0]["flagged"] is False
    assert rows[0]["model"]["source"] == "tiny-m9"


def test_a_picture_is_made_again_from_itself(generate, model: Path, tmp_path: Path, capsys) -> None:
    generate("--prompt", "a dog", "--prompt", "a cat", "--seed", "9", "--sampler", "ddim")
    second = Path(capsys.readouterr().out.splitlines()[1])
    again = ["generate", "--from", str(second), "--models-dir", str(model.parent)]
    assert main([*again, "--out", str(tmp_path / "again")]) == 0
    copy = Path(capsys.readouterr().out.splitlines()[0])
    assert largest_difference(copy, second) <= 1  # alone, not in its batch: rounding
    assert main([*again, "--seed", "77", "--out", str(tmp_path / "other")]) == 0
    other = Path(capsys.readouterr().out.splitlines()[0])
    assert largest_difference(other, second) > 10


def test_a_replay_honours_what_made_the_picture(
    generate, model: Path, tmp_path: Path, capsys
) -> None:
    other = layouts.write_sd_checkpoint(model.parent / "other.safetensors", "sd1")
    options = ["--prompt", "a dog", "--prompt", "a cat", "--seed", "3", "--grid"]
    assert generate(*options, "--vae", str(other), "--dtype", "bf16") == 0
    first, _, grid = (Path(line) for line in capsys.readouterr().out.splitlines())
    again = ["--models-dir", str(model.parent), "--out", str(tmp_path / "again"), "--json"]
    assert main(["generate", "--from", str(first), *again]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["model"]["parts"] == {"vae": "other.safetensors"}
    assert row["model"]["dtype"] == "bf16"
    assert largest_difference(first, Path(row["path"])) <= 3  # bf16, alone and not in its batch
    assert main(["generate", "--from", str(grid), *again]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_hostile_picture_opens_no_path(generate, model: Path, tmp_path: Path, capsys) -> None:
    from multilingual_diffusion.pipeline_core.images.metadata import METADATA_KEY
    from PIL.PngImagePlugin import PngInfo

    generate("--prompt", "a dog", "--json")
    row = json.loads(capsys.readouterr().out)
    good = {"request": row["request"], "model": row["model"], "index": 0}
    request, source = row["request"], {"source": str(model)}
    changes = [
        {"index": "x"}, {"index": 99}, {"index": -5}, {"index": None}, {"model": source},
        {"model": {}}, {"model": {"source": "../x"}}, {"model": {**row["model"], "parts": "x"}},
        {"request": 5}, {"noise": "given"}, {"request": {**request, "sigmas": 5}},
        {"request": {**request, "prompts": 5}}, {"request": {**request, "sampler": ["ddim"]}},
        {"request": {**request, "init_image": 5}}, {"request": {**request, "nose": 5}},
    ]  # fmt: skip
    for number, change in enumerate(changes):
        info = PngInfo()
        info.add_itxt(METADATA_KEY, json.dumps({**good, **change}))
        path = tmp_path / f"hostile{number}.png"
        Image.new("RGB", (8, 8)).save(path, pnginfo=info)
        out = ["--out", str(tmp_path / "hostile"), "--models-dir", str(model.parent)]
        assert main(["generate", "--from", str(path), *out]) in (2, 4), change
        error = capsys.readouterr().err.strip()
        assert error.startswith("error:") and "\n" not in error
    assert not (tmp_path / "hostile").exists()


def test_an_output_that_is_no_folder_is_found_at_once(generate, tmp_path: Path, capsys) -> None:
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    assert generate("--prompt", "a dog") == 2
    assert "not a folder" in capsys.readouterr().err


def test_verbose_says_why(generate, model: Path, tmp_path: Path, capsys, caplog) -> None:
    options = ["--model", str(model), "--steps", "2", "--width", "64", "--height", "64"]
    with caplog.at_level("INFO", logger="multilingual_diffusion"):
        out = ["--out", str(tmp_path / "out"), "--prompt", "a dog"]
        assert main(["-v", "generate", *options, *out]) == 0
    assert "parameters are small" in caplog.text


def test_prompts_from_a_file(generate, tmp_path: Path, capsys) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\ufeffa dog\n\n\u732b\n", encoding="utf-8")
    assert generate("--from-file", str(prompts)) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_starting_from_a_picture(generate, tmp_path: Path, capsys) -> None:
    start, mask = tmp_path / "start.png", tmp_path / "mask.png"
    Image.new("RGB", (100, 80), (200, 30, 30)).save(start)
    Image.new("L", (100, 80), 0).save(mask)
    options = ["--prompt", "a dog", "--init-image", str(start), "--strength", "0.5"]
    assert generate(*options, "--sampler", "ddim", "--steps", "4") == 0
    assert generate(*options, "--mask", str(mask), "--sampler", "ddim", "--steps", "4") == 0
    kept = open_picture(Path(capsys.readouterr().out.splitlines()[-1]))
    assert all(abs(a - b) <= 1 for a, b in zip(kept.getpixel((9, 9)), (200, 30, 30), strict=True))


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--prompt", "a", "--sampler", "dimm"], 2, "did you mean 'ddim'"),
        (["--prompt", "a", "--steps", "0"], 2, "steps"),
        (["--prompt", "a", "--steps", "x"], 2, "invalid int"),
        (["--prompt", "a", "--width", "100"], 2, "multiple of 8"),
        (["--prompt", "a", "--guidance", "nan"], 2, "guidance_scale"),
        (["--prompt", "a", "--seed", "-1"], 2, "seed"),
        (["--prompt", "a", "--sigmas", "1,two"], 2, "numbers"),
        (["--prompt", "a", "--safety", "maybe"], 2, "safety"),
        (["--prompt", "a", "--safety", "black"], 1, "safety checker"),
        (["--prompt", "a", "--device", "tpu"], 2, "device"),
        (["--prompt", "a", "--device", "cuda:9"], 2, "not in this machine"),
        (["--prompt", "a", "--dtype", "fp8"], 2, "dtype"),
        (["--prompt", "a", "--dtype", "fp16"], 2, "CPU"),
        (["--prompt", "a", "--batch-size", "0"], 2, "batch-size"),
        (["--prompt", "(a"], 2, "character"),
        (["--prompt", "a", "--model", "no-such-model"], 4, "no-such-model"),
        (["--prompt", "a", "--model", "altdiffusion-m9"], 4, "models download altdiffusion-m9"),
        (["--prompt", "a", "--mask", "x.png"], 2, "init-image"),
        (["--prompt", "a", "--init-image", "absent.png"], 4, "absent.png"),
        (["--prompt", "a", "--n", "0"], 2, "images_per_prompt"),
        (["--prompt", "a", "--height", "0"], 2, "height"),
        (["--prompt", "a", "--schedule", "caras"], 2, "did you mean 'karras'"),
        (["--prompt", "a", "--noise", "gpu"], 2, "noise"),
        (["--prompt", "a", "--eta", "2"], 2, "eta"),
        (["--prompt", "a", "--timestep-rule", "mine"], 2, "timestep-rule"),
        (["--prompt", "a", "--strength", "0.5"], 2, "no init image"),
        (["--prompt", "a", "--weighting", "compel"], 2, "weighting"),
        (["--prompt", "a", "--long-prompt", "drop"], 2, "long-prompt"),
        (["--prompt", "a", "--guidance-batching", "x"], 2, "guidance-batching"),
        (["--prompt", "a", "--safety-adjustment", "2"], 2, "safety_adjustment"),
        (["--prompt", "a", "--prediction-type", "x0"], 2, "prediction-type"),
        (["--prompt", "a", "--vae", "absent"], 4, "absent"),
        (["--prompt", "a", "--unet", "absent"], 4, "absent"),
        (["--prompt", "a", "--safety-checker", "absent"], 4, "absent"),
        (["--prompt", "a", "--model", ""], 2, "name"),
        (["--prompt", "a", "--ema"], 2, "EMA"),
        (["--from", "absent.png"], 4, "absent.png"),
        (["--from-file", "absent.txt"], 2, "absent.txt"),
        ([], 2, "nothing to paint"),
    ],
)
def test_wrong_input_is_one_line_and_a_code(
    generate, tmp_path: Path, capsys, options: list[str], code: int, message: str
) -> None:
    models = ["--models-dir", str(tmp_path / "models")]
    try:
        found = generate(*models, *options)
    except SystemExit as exc:
        found = exc.code
    error = capsys.readouterr().err.strip()
    assert found == code and message in error and not set(error) & {"\n", "\r"}
    assert not (tmp_path / "out").exists()


def test_blocked_pictures_have_their_own_code(tmp_path: Path, capsys) -> None:
    path = layouts.write_diffusers_folder(tmp_path / "checked", "m9", weights="safetensors")
    options = ["--model", str(path), "--out", str(tmp_path / "out"), "--steps", "2"]
    size = ["--width", "64", "--height", "64", "--prompt", "a"]
    adjusted = ["--safety", "block", "--safety-adjustment", "1.0"]
    assert main(["generate", *options, *size, *adjusted]) == 3
    assert not (tmp_path / "out").exists() and "flagged" in capsys.readouterr().err


def test_models_list_and_check(model: Path, tmp_path: Path, capsys) -> None:
    assert main(["models", "list", "--models-dir", str(model.parent)]) == 0
    listing = capsys.readouterr().out
    assert "altdiffusion-m18" in listing and "tiny-m9" in listing
    assert main(["models", "check", str(model)]) == 0
    assert "unet" in capsys.readouterr().out
    assert main(["models", "check", "tiny-m9", "--models-dir", str(model.parent)]) == 0
    assert main(["models", "check", str(tmp_path / "nothing")]) == 4


def test_a_pickle_names_the_command_that_converts_it(tmp_path: Path, capsys) -> None:
    source = layouts.write_diffusers_folder(tmp_path / "source", "m9", null_checkers=True)
    target, prompt = tmp_path / "target", ["--prompt", "a", "--out", str(tmp_path / "out")]
    assert main(["generate", "--model", str(source), *prompt]) == 4
    assert "models convert" in capsys.readouterr().err
    assert main(["models", "convert", str(source), str(target), "--allow-pickle"]) == 0
    assert main(["models", "check", str(target)]) == 0
    assert any("licen" in path.name.lower() for path in target.iterdir())
    size = ["--width", "64", "--height", "64", "--steps", "2"]
    assert main(["generate", "--model", str(target), *prompt, *size]) == 0


def test_verify_tells_a_stranger_from_the_published_model(
    model: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    from multilingual_diffusion.pipeline_core import golden

    assert main(["models", "verify", str(model)]) == 2
    assert "altdiffusion-m9" in capsys.readouterr().err
    small = golden.GoldenSlice("ddim", 2, 7.5, golden.SLICES[0].values)
    monkeypatch.setattr(golden, "SLICES", (small,))
    monkeypatch.setattr(golden, "SIZE", 64)
    m2 = layouts.write_diffusers_folder(
        model.parent / "AltDiffusion", "m2", weights="safetensors", null_checkers=True
    )
    assert main(["models", "verify", str(m2)]) == 1
    assert "DIFFERS" in capsys.readouterr().out
