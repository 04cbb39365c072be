"""Pictures in and out: conversions, digests, grids and sheets."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from multilingual_diffusion.pipeline_core.errors import FileRefused, InvalidRequest
from multilingual_diffusion.pipeline_core.images.convert import (
    open_mask,
    open_picture,
    open_pixels,
    pixels_digest,
    split_alpha,
    to_mask,
    to_pixels,
)
from multilingual_diffusion.pipeline_core.images.grid import (
    can_draw,
    load_font,
    make_grid,
    make_sheet,
)
from multilingual_diffusion.pipeline_core.images.png import (
    read_metadata,
    write_png,
    write_png_as,
)
from multilingual_diffusion.pipeline_core.values import CheckedImages, Verdict
from PIL import Image


def checked(count: int = 3, height: int = 6, width: int = 10) -> CheckedImages:
    pixels = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))
    return CheckedImages(pixels, (Verdict(False),) * count, "pass", {"model": "nano"})


def ramp(mode: str) -> Image.Image:
    return Image.linear_gradient("L").resize((4, 256)).convert(mode)


def header(width: int, height: int) -> bytes:
    """Return a PNG that declares a size and holds no pixel."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ):
        crc = zlib.crc32(kind + data)
        parts.append(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc))
    return b"".join(parts)


# conversions


def test_rgb_becomes_exact_pixels():
    array = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    pixels = to_pixels(Image.fromarray(array))
    assert pixels.shape == (1, 3, 5, 7) and pixels.dtype == torch.float32
    assert torch.equal(pixels[0].permute(1, 2, 0), torch.from_numpy(array.astype("f4") / 255.0))


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "YCbCr", "LA", "RGBA", "HSV"])
def test_every_mode_gives_three_channels_in_range(mode):
    pixels = to_pixels(ramp("RGB" if mode in ("HSV", "YCbCr", "CMYK") else "L").convert(mode))
    assert pixels.shape == (1, 3, 256, 4)
    assert pixels.min() < 0.02 and pixels.max() > 0.98


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bits_keep_their_tones(mode, tmp_path):
    tones = np.linspace(0, 65535, 64).astype({"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode])
    picture = Image.frombytes(mode, (64, 1), tones.tobytes())
    expected = torch.from_numpy((tones / 65535.0).astype("f4"))
    assert (to_pixels(picture)[0, 0, 0] - expected).abs().max() < 0.5 / 255 + 1e-4
    assert (to_mask(picture)[0, 0, 0] - expected).abs().max() < 0.5 / 255 + 1e-4


def test_floats_of_unknown_range_are_refused():
    with pytest.raises(InvalidRequest, match="unknown range"):
        to_pixels(Image.new("F", (2, 2)))


def test_exif_orientation_turns_the_picture(tmp_path):
    picture = Image.new("RGB", (4, 2))
    picture.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to stand upright
    picture.save(tmp_path / "turned.png", exif=exif)
    pixels = to_pixels(open_picture(tmp_path / "turned.png"))
    assert pixels.shape == (1, 3, 4, 2)
    assert pixels[0, 0, 0, 1] == 1.0 and pixels.sum() == 1.0


def test_transparency_lies_on_white_or_makes_a_mask():
    picture = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    picture.putpixel((1, 0), (0, 100, 0, 0))
    assert to_pixels(picture)[0, :, 0, 1].tolist() == [1.0, 1.0, 1.0]
    pixels, mask = split_alpha(picture)
    assert mask is not None and mask[0, 0, 0].tolist() == [0.0, 1.0]
    assert pixels[0, 1, 0, 1] == torch.tensor(100 / 255)
    assert split_alpha(picture.convert("RGB"))[1] is None


def test_palette_transparency_counts(tmp_path):
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "palette.png", transparency=1)
    reopened = open_picture(tmp_path / "palette.png")
    assert to_pixels(reopened)[0, :, 0, 1].tolist() == [1.0, 1.0, 1.0]
    mask = split_alpha(reopened)[1]
    assert mask is not None and mask[0, 0, 0].tolist() == [0.0, 1.0]


def test_a_turned_jpeg_is_resized_after_it_stands_upright(tmp_path):
    upright = Image.new("RGB", (24, 48), "black")
    upright.paste((255, 255, 255), (0, 0, 24, 16))  # its upper third is white
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95, subsampling=0)
    for opened in (open_pixels, open_mask):
        pixels = opened(tmp_path / "turned.jpg", (16, 32))
        assert pixels.shape[2:] == (32, 16)
        assert pixels[..., :9, :].min() > 0.95 and pixels[..., 13:, :].max() < 0.05
        assert opened(tmp_path / "turned.jpg").shape[2:] == (48, 24)


def test_a_palette_is_resized_by_its_colours_not_its_numbers(tmp_path):
    stripes = Image.new("P", (32, 8))
    stripes.putpalette([0, 0, 0, 255, 255, 255, *[9, 9, 9] * 198, 200, 0, 0])
    stripes.putdata([0 if column % 2 else 200 for column in range(32)] * 8)
    stripes.save(tmp_path / "palette.png")
    pixels = open_pixels(tmp_path / "palette.png", (8, 8))
    wanted = to_pixels(stripes.convert("RGB").resize((8, 8), Image.Resampling.LANCZOS))
    assert torch.equal(pixels, wanted)
    assert (pixels[0, 0] - 100 / 255).abs().max() < 0.08 and not pixels[0, 1:].any()
    mask = open_mask(tmp_path / "palette.png", (8, 8))
    assert (mask - to_mask(stripes.convert("L").resize((8, 8), 1))).abs().max() == 0


def test_sixteen_bits_and_transparency_are_resized_as_they_look(tmp_path):
    tones = np.tile(np.linspace(0, 65535, 64).astype("<u2"), (8, 1))
    Image.frombytes("I;16", (64, 8), tones.tobytes()).save(tmp_path / "deep.png")
    for opened in (open_pixels, open_mask):
        row = opened(tmp_path / "deep.png", (32, 8))[0, 0, 4]
        assert (row - torch.linspace(0, 1, 64).reshape(32, 2).mean(1)).abs().max() < 0.02
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))  # black below full transparency
    clear.save(tmp_path / "clear.png")
    assert bool((open_pixels(tmp_path / "clear.png", (4, 4)) == 1).all())


def test_mask_is_lightness():
    mask = to_mask(Image.new("RGB", (3, 2), (255, 255, 255)))
    assert mask.shape == (1, 1, 2, 3) and bool((mask == 1).all())


def test_digest_sees_values_and_shape_only():
    pixels = torch.tensor([[[[0.0, 0.5, 1.0, 0.25]]]])
    known = hashlib.sha256(b"1x1x1x4:" + struct.pack("<4f", 0.0, 0.5, 1.0, 0.25)).hexdigest()
    assert pixels_digest(pixels) == known
    assert pixels_digest(pixels.double()) == known
    strided = pixels.repeat_interleave(2, dim=-1)[..., ::2]
    assert pixels_digest(strided) == known
    assert pixels_digest(pixels.reshape(1, 1, 4, 1)) != known
    assert pixels_digest(pixels + 1e-6) != known


# hostile files


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a" + b"\0" * 40,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 64,
        b"\xff\xd8\xff\xe0" + b"\0" * 64,
        header(16385, 16),
        header(10000, 10000),
        header(2**31 - 1, 2**31 - 1),
        header(64, 64),
    ],
    ids=["empty", "gif", "svg", "png", "jpeg", "side", "pixels", "bomb", "no-pixels"],
)
def test_hostile_files_are_refused(tmp_path, data):
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with pytest.raises(FileRefused, match=r"picture\.png"):
        open_picture(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.png", tmp_path, "a\0b.png"):
        with pytest.raises(FileRefused):
            open_picture(path)


def test_a_picture_cut_short_is_refused(tmp_path):
    path = tmp_path / "cut.png"
    ramp("RGB").save(path)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(FileRefused, match=r"cut\.png"):
        open_picture(path)


# grid and sheet


@pytest.mark.parametrize(
    ("count", "columns", "size"), [(4, 2, (18, 26)), (3, 2, (18, 26)), (3, 9, (10, 38))]
)
def test_grid_is_laid_out_as_make_grid(count, columns, size):
    images = checked(count)
    grid = make_grid(images, columns)
    assert grid.pixels.shape == (1, 3, *size)
    seen = grid.pixels.clone()[0]
    for index in range(count):
        row, column = divmod(index, min(columns, count))
        top, left = 2 + row * 8, 2 + column * 12
        assert torch.equal(seen[:, top : top + 6, left : left + 10], images.pixels[index])
        seen[:, top : top + 6, left : left + 10] = 0
    assert not seen.any()  # padding and empty cells are black
    assert (grid.policy, grid.verdicts) == (images.policy, images.verdicts)
    assert grid.metadata == {"model": "nano", "grid": {"columns": min(columns, count)}}
    assert "grid" not in images.metadata


def test_grid_equals_torchvision_where_it_is_installed():
    utils = pytest.importorskip("torchvision.utils")
    images = checked(5)
    assert torch.equal(make_grid(images, 3).pixels[0], utils.make_grid(images.pixels, nrow=3))


def test_grid_of_one_is_the_image():
    images = checked(1)
    assert make_grid(images, 4) is images
    with pytest.raises(InvalidRequest, match="columns"):
        make_grid(checked(2), 0)


def test_the_file_of_a_grid_or_a_sheet_says_so_and_names_no_image(tmp_path):
    images = checked(3, 40, 60)
    sheet = make_sheet(images, ["a", "b", "c"], columns=2)
    for joined in (make_grid(images, 2), sheet):
        (path,) = write_png(tmp_path, joined)
        assert read_metadata(path) == {"model": "nano", "grid": {"columns": 2}}
    assert "index" not in read_metadata(write_png_as(tmp_path / "sheet.png", sheet))


def test_sheet_keeps_the_pictures_and_draws_the_labels():
    images = checked(3, 40, 60)
    sheet = make_sheet(images, ["a cat", "un chat", "eine Katze"], columns=2)
    picture = sheet.to_pil()[0]
    for index, original in enumerate(images.to_pil()):
        left, top = 8 + index % 2 * 68, 8 + index // 2 * (40 + 27 + 8)
        cut = picture.crop((left, top, left + 60, top + 40))
        assert cut.tobytes() == original.tobytes()
        band = np.asarray(picture.crop((left, top + 40, left + 60, top + 67)))
        assert (band < 100).any()  # ink


def test_labels_the_font_lacks_become_codes_not_boxes():
    chinese, arabic = "\u4e00\u53ea\u732b", "\u0642\u0637\u0629"
    font = load_font(None, 18)
    assert can_draw(font, "Katze, un chat") and not can_draw(font, chinese)
    images = checked(2, 40, 60)
    drawn = make_sheet(images, [chinese, arabic], columns=2, codes=["zh", "ar"])
    plain = make_sheet(images, ["zh", "ar"], columns=2)
    assert torch.equal(drawn.pixels, plain.pixels)
    numbered = make_sheet(images, [chinese, arabic], columns=2)
    assert torch.equal(numbered.pixels, make_sheet(images, ["1", "2"], columns=2).pixels)


def test_a_given_font_draws_what_it_has():
    russian = "\u043a\u043e\u0442"
    matplotlib = pytest.importorskip("matplotlib")  # for the font it ships
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    assert can_draw(load_font(path, 18), russian)
    images = checked(1, 40, 60)
    drawn = make_sheet(images, [russian], columns=1, codes=["ru"], font_file=path)
    fallback = make_sheet(images, ["ru"], columns=1, font_file=path)
    assert not torch.equal(drawn.pixels, fallback.pixels)


def test_long_labels_are_cut_and_bad_input_is_refused(tmp_path):
    images = checked(1, 40, 60)
    sheet = make_sheet(images, ["a very long label " * 20], columns=1)
    assert sheet.pixels.shape[-1] == 60 + 16
    right_margin = sheet.pixels[0, :, 50:, 69:]
    assert bool((right_margin == 1).all())
    with pytest.raises(InvalidRequest, match="2 labels for 1"):
        make_sheet(images, ["a", "b"], columns=1)
    (tmp_path / "no.ttf").write_bytes(b"no font")
    with pytest.raises(FileRefused, match="font file"):
        make_sheet(images, ["a"], columns=1, font_file=tmp_path / "no.ttf")
