"""LoRA files on real tiny UNets: every spelling, the arithmetic, what is shared, hostile files."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lora_cases import (
    ALPHA,
    CONVOLUTIONS,
    LAYERS,
    RANK,
    SPELLINGS,
    Pairs,
    flat,
    ldm_of,
    random_pairs,
    spell,
)
from multilingual_diffusion.pipeline_core.adapters.folders import AdapterFolders
from multilingual_diffusion.pipeline_core.adapters.lora import (
    AppliedLora,
    LoraDenoiser,
    apply_loras,
)
from multilingual_diffusion.pipeline_core.adapters.lora_files import Lora, open_lora
from multilingual_diffusion.pipeline_core.adapters.lora_names import layer_names
from multilingual_diffusion.pipeline_core.errors import (
    FileRefused,
    InvalidRequest,
    ModelNotFound,
    PipelineError,
    WeightsMismatch,
)
from multilingual_diffusion.pipeline_core.sampling import UNetDenoiser
from multilingual_diffusion.pipeline_core.training.lora import add_lora, merge_lora, write_lora
from safetensors.torch import load_file, save_file

CONFIGS = {"sd1": tiny.UNET_M9, "sd2": tiny.UNET_M18}


@functools.cache
def unet(kind: str = "sd1"):
    return UNetDenoiser(tiny.unet(CONFIGS[kind]))


def weights_of(denoiser) -> dict[str, torch.Tensor]:
    return denoiser.network.state_dict()


def pairs(kind: str = "sd1", layers=LAYERS, seed: int = 0) -> Pairs:
    return random_pairs(weights_of(unet(kind)), layers, seed)


@functools.cache
def shapes(kind: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in weights_of(unet(kind)).items()}


def open_on(path: Path, kind: str = "sd1", **options) -> Lora:
    return open_lora(path, shapes(kind), CONFIGS[kind], **options)


def write(path: Path, tensors: dict, **metadata: str) -> Path:
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    save_file(tensors, path, metadata=metadata or None)
    return path


def apply(denoiser, *applied, **options):
    return apply_loras(denoiser, [AppliedLora(*each) for each in applied], **options)


def expected(denoiser, found, factor: float) -> dict[str, torch.Tensor]:
    """Compute W + factor * up @ down by hand, in float64."""
    weights = dict(weights_of(denoiser))
    for layer, (up, down) in found.items():
        weight = weights[f"{layer}.weight"]
        change = torch.einsum(
            "or,ri->oi", up.double().reshape(len(up), -1), down.double().reshape(len(down), -1)
        )
        exact = weight.double() + factor * change.reshape(weight.shape)
        weights[f"{layer}.weight"] = exact.to(weight.dtype)
    return weights


def assert_equal(found: dict, wanted: dict, tolerance: float = 1e-9) -> None:
    """Compare weights: equal but for the last bit of a rounding tie."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=1.2e-7, atol=tolerance), name


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_the_same_arithmetic(tmp_path, spelling, kind):
    found = pairs(kind)
    tensors, scale = spell(found, spelling)
    lora = open_on(write(tmp_path / "x.safetensors", tensors), kind)
    assert {layer.target for layer in lora.layers} == {f"{layer}.weight" for layer in LAYERS}
    assert not lora.skipped
    merged = weights_of(apply(unet(kind), (lora, 0.7)))
    assert_equal(merged, expected(unet(kind), found, 0.7 * scale))
    ignoring_alpha = expected(unet(kind), found, 0.7 * (scale + 0.01))
    with pytest.raises(AssertionError):
        assert_equal(merged, ignoring_alpha)


def test_linear_pairs_change_1x1_convolutions_and_the_reverse(tmp_path):
    for kind, reshape in (("sd1", (0, 1)), ("sd2", (0, 1, None, None))):
        found = pairs(kind, ["down_blocks.1.attentions.0.proj_in"])
        up, down = (
            value.flatten(1) if len(reshape) == 2 else value[:, :, None, None]
            for value in found["down_blocks.1.attentions.0.proj_in"]
        )
        tensors, scale = spell({"down_blocks.1.attentions.0.proj_in": (up, down)})
        lora = open_on(write(tmp_path / f"{kind}.safetensors", tensors), kind)
        assert_equal(weights_of(apply(unet(kind), (lora,))), expected(unet(kind), found, scale))


def test_convolutions_with_and_without_a_middle(tmp_path):
    found = pairs(layers=CONVOLUTIONS)
    tensors, scale = spell(found)
    plain = open_on(write(tmp_path / "plain.safetensors", tensors))
    assert_equal(weights_of(apply(unet(), (plain,))), expected(unet(), found, scale))

    layer = "down_blocks.0.resnets.0.conv1"
    weight = weights_of(unet())[f"{layer}.weight"]
    up, mid = torch.randn(weight.shape[0], 2, 1, 1), torch.randn(2, RANK, 3, 3)
    down = torch.randn(RANK, weight.shape[1], 1, 1)
    name = f"lora_unet_{flat(layer)}"
    tensors = {
        f"{name}.lora_up.weight": up, f"{name}.lora_mid.weight": mid,
        f"{name}.lora_down.weight": down,
    }  # fmt: skip
    lora = open_on(write(tmp_path / "mid.safetensors", tensors))
    merged = weights_of(apply(unet(), (lora, 0.5)))[f"{layer}.weight"]
    # the three convolutions one after the other, as LoCon trains them
    x, conv = torch.randn(1, weight.shape[1], 6, 6).double(), torch.nn.functional.conv2d
    low = conv(conv(conv(x, down.double()), mid.double(), padding=1), up.double())
    wanted = conv(x, weight.double(), padding=1) + 0.5 * low
    assert torch.allclose(conv(x, merged.double(), padding=1), wanted, atol=1e-5)


def test_what_our_own_trainer_writes_gives_what_it_merges(tmp_path):
    trained = tiny.unet()
    add_lora(trained, rank=4, alpha=2.0)
    for name, value in trained.named_parameters():
        if ".up." in name:
            torch.nn.init.normal_(value, std=0.2)
    write_lora(trained, tmp_path / "ours.safetensors")
    lora = open_on(tmp_path / "ours.safetensors")
    merge_lora(trained)
    merged = weights_of(apply(unet(), (lora,)))
    assert not lora.skipped and len(lora.layers) == 8 * 16  # 8 projections in 16 transformers
    assert_equal(merged, trained.state_dict(), tolerance=1e-6)  # it merges in float32


def test_equal_to_diffusers_and_peft(tmp_path):
    pytest.importorskip("peft", reason="peft is not installed")
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    latents, context = torch.randn(1, 4, 8, 8), torch.randn(1, 5, tiny.PROJECT)
    for spelling, layers in (("kohya", LAYERS[:3]), ("PEFT", LAYERS), ("processors", LAYERS[:3])):
        path = tmp_path / f"{spelling}.safetensors"
        write(path, spell(pairs(layers=layers), spelling)[0])
        theirs = tiny.unet()
        state, alphas = Loader.lora_state_dict(str(path))[:2]
        Loader.load_lora_into_unet(state, network_alphas=alphas, unet=theirs)
        wanted = theirs(latents, 7, context).sample
        ours = apply(unet(), (open_on(path),)).network
        assert not torch.allclose(unet().network(latents, 7, context).sample, wanted, atol=1e-3)
        assert torch.allclose(ours(latents, 7, context).sample, wanted, atol=2e-5), spelling


def test_the_notes_of_peft_say_alpha(tmp_path):
    found = pairs(layers=LAYERS[:2])
    tensors, _ = spell(found, "PEFT")
    notes = {"unet.r": RANK, "unet.lora_alpha": 6, "unet.alpha_pattern": {"attn2.to_k": 9}}
    path = tmp_path / "x.safetensors"
    lora = open_on(write(path, tensors, lora_adapter_metadata=json.dumps(notes)))
    merged = weights_of(apply(unet(), (lora,)))
    wanted = expected(unet(), {LAYERS[1]: found[LAYERS[1]]}, 9 / RANK)
    first = expected(unet(), {LAYERS[0]: found[LAYERS[0]]}, 6 / RANK)
    assert_equal(merged, {**wanted, f"{LAYERS[0]}.weight": first[f"{LAYERS[0]}.weight"]})
    stabilised = json.dumps({"lora_alpha": 6, "use_rslora": True})
    lora = open_on(write(path, tensors, lora_adapter_metadata=stabilised))
    assert_equal(weights_of(apply(unet(), (lora,))), expected(unet(), found, 6 / RANK**0.5))
    for broken in ("{", '{"lora_alpha": "x"}', '{"alpha_pattern": []}', '{"use_rslora": 1}', "[]"):
        with pytest.raises(FileRefused, match="lora_adapter_metadata"):
            open_on(write(path, tensors, lora_adapter_metadata=broken))


def test_the_unet_that_comes_in_stays_and_shares(tmp_path):
    found = pairs()
    lora = open_on(write(tmp_path / "x.safetensors", spell(found)[0]))
    before = {name: value.clone() for name, value in weights_of(unet()).items()}
    with torch.inference_mode():
        changed = apply(unet(), (lora, 1.0))
    assert isinstance(changed, LoraDenoiser) and changed.base is unet()
    ours, theirs = weights_of(changed), weights_of(unet())
    for name, value in theirs.items():
        assert torch.equal(value, before[name])
        is_changed = name.removesuffix(".weight") in LAYERS
        assert (ours[name].data_ptr() != value.data_ptr()) == is_changed, name
        assert torch.equal(ours[name], value) != is_changed, name
    changed.network.to(torch.float64)  # moving or casting one leaves the other alone
    assert {value.dtype for value in weights_of(unet()).values()} == {torch.float32}
    assert changed.network.config == unet().network.config


def test_strength_0_and_taking_off_are_bit_for_bit(tmp_path):
    lora = open_on(write(tmp_path / "x.safetensors", spell(pairs())[0]))
    assert apply(unet(), (lora, 0.0)) is unet()
    on_and_off = apply(apply(unet(), (lora, 0.37)), (lora, -0.37))
    for name, value in weights_of(on_and_off).items():
        assert torch.equal(value, weights_of(unet())[name]), name
    once = apply(unet(), (lora, 0.3))
    assert apply(once, (lora, 0.0)) is once


def test_loras_stack_in_any_order_and_round_once(tmp_path):
    found = [pairs(seed=seed) for seed in (1, 2)]
    one, two = (
        open_on(write(tmp_path / f"{i}.safetensors", spell(pair)[0]))
        for i, pair in enumerate(found)
    )
    stacked = apply(apply(unet(), (one, 0.8)), (two, -0.4))
    at_once = apply(unet(), (one, 0.8), (two, -0.4))
    assert [applied.lora for applied in stacked.loras] == [one, two] and stacked.base is unet()
    for name, value in weights_of(stacked).items():
        assert torch.equal(value, weights_of(at_once)[name])
    halves = [{layer: (up * s, down) for layer, (up, down) in pair.items()}
              for pair, s in zip(found, (0.8, -0.4), strict=True)]  # fmt: skip
    both = {layer: (torch.cat([halves[0][layer][0], halves[1][layer][0]], 1),
                    torch.cat([halves[0][layer][1], halves[1][layer][1]], 0))
            for layer in LAYERS}  # fmt: skip
    wanted = expected(unet(), both, ALPHA / RANK)
    assert_equal(weights_of(stacked), wanted, tolerance=1e-6)  # pairs scaled in float32


def test_the_picture_changes_as_the_weights_say(tmp_path):
    found = pairs()
    lora = open_on(write(tmp_path / "x.safetensors", spell(found)[0]))
    latents, context = torch.randn(1, 4, 8, 8), torch.randn(1, 5, tiny.PROJECT)
    by_hand = tiny.unet()
    by_hand.load_state_dict(expected(unet(), found, ALPHA / RANK))
    ours = apply(unet(), (lora,))(latents, torch.tensor(5.0), context)
    assert torch.allclose(ours, by_hand(latents, 5.0, context).sample, atol=1e-6)
    assert not torch.allclose(ours, unet()(latents, torch.tensor(5.0), context), atol=1e-3)


def test_report_says_what_was_left_out_and_why(tmp_path):
    tensors, _ = spell(pairs())
    to_k = f"lora_unet_{flat(LAYERS[1])}"
    wide = torch.zeros(RANK, 1024)
    tensors |= {
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.zeros(4, 1),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.zeros(1, 4),
        "text_encoder.text_model.encoder.layers.0.q_proj.lora_A.weight": torch.zeros(1, 4),
        "lora_unet_input_blocks_4_1_transformer_blocks_9_attn1_to_q.alpha": torch.tensor(1.0),
        f"{to_k}.lora_down.weight": wide,
        f"lora_unet_{flat(LAYERS[0])}.dora_scale": torch.ones(1),
        f"lora_unet_{flat(CONVOLUTIONS[0])}.hada_w1_a": torch.ones(2, 2),
        "something": torch.ones(1),
    }
    del tensors[f"lora_unet_{flat(LAYERS[3])}.lora_up.weight"]
    tensors[f"lora_unet_{flat(LAYERS[4])}.lora_up.weight"] = torch.ones(7, RANK)
    lora = open_on(write(tmp_path / "x.safetensors", tensors))
    assert [layer.target for layer in lora.layers] == [f"{LAYERS[2]}.weight", f"{LAYERS[5]}.weight"]
    text = "\n".join(lora.left_out)
    for words in (
        "for CLIP's text encoder, in whose place this model has XLM-R or BERT: lora_te_text",
        "and 1 more",
        "layers that this UNet has not: lora_unet_input_blocks_4_1_transformer_blocks_9",
        "the down side takes [3, 1024] where the layer takes [24]: ",
        "the up side gives [7, 3] where the layer gives 64: ",
        "the up side is missing: ",
        "DoRA, which is not supported: ",
        "LoHa, which is not supported: ",
        "names that no LoRA has: something",
    ):
        assert words in text, words
    left = sum(len(names) for names in lora.skipped.values())
    assert left + 3 * len(lora.layers) == len(tensors)  # nothing is passed over in silence


def test_a_lora_that_changes_nothing_is_refused(tmp_path):
    tensors, _ = spell(pairs("sd2", [LAYERS[1]]))
    path = write(tmp_path / "x.safetensors", tensors)
    assert open_on(path, "sd2").layers
    with pytest.raises(WeightsMismatch, match=r"the down side takes \[3, 32\] .* takes \[24\]"):
        open_on(path, "sd1")


def test_ambiguous_broken_and_pickled_files_are_refused(tmp_path):
    path, (tensors, _) = tmp_path / "x.safetensors", spell(pairs(layers=LAYERS[:1]))
    twice = {**tensors, **spell(pairs(layers=LAYERS[:1]), "PEFT")[0]}
    with pytest.raises(FileRefused, match="two changes of"):
        open_on(write(path, twice))
    name = f"lora_unet_{flat(LAYERS[0])}"
    with pytest.raises(FileRefused, match="mean the same"):
        open_on(write(path, {**tensors, f"{name}.lora_B.weight": torch.ones(64, RANK)}))
    whole = write(path, tensors).stat().st_size
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[: whole // 2])
    with pytest.raises(FileRefused, match="cut"):
        open_on(tmp_path / "cut.safetensors")
    torch.save(tensors, tmp_path / "x.pt")
    with pytest.raises(FileRefused, match="pickle, which can carry code"):
        open_on(tmp_path / "x.pt")
    pickled = open_on(tmp_path / "x.pt", allow_pickle=True)
    assert_equal(weights_of(apply(unet(), (pickled,))),
                 weights_of(apply(unet(), (open_on(path),))))  # fmt: skip


def test_numbers_that_cannot_be_are_refused(tmp_path):
    found = pairs(layers=LAYERS[:1])
    name = f"lora_unet_{flat(LAYERS[0])}"
    for change in (
        {f"{name}.alpha": torch.tensor(float("inf"))},
        {f"{name}.lora_up.weight": torch.full((64, RANK), float("nan"))},
    ):
        lora = open_on(write(tmp_path / "x.safetensors", {**spell(found)[0], **change}))
        with pytest.raises(FileRefused, match="not finite"):
            apply(unet(), (lora,))
    for wrong in (float("nan"), 101, "1", True):
        with pytest.raises(InvalidRequest, match="strength is"):
            AppliedLora(lora, wrong)
    half = UNetDenoiser(tiny.unet().half())
    huge = {layer: (up * 1e3, down * 1e3) for layer, (up, down) in found.items()}
    lora = open_on(write(tmp_path / "huge.safetensors", spell(huge)[0]))
    with pytest.raises(InvalidRequest, match=r"leaves the range of torch\.float16"):
        apply(half, (lora,))


def test_whole_numbers_as_alpha_and_half_precision(tmp_path):
    found = {name: tuple(value.half() for value in pair) for name, pair in pairs().items()}
    tensors, scale = spell(found)
    tensors = {name: value.to(torch.int64) if name.endswith("alpha") else value
               for name, value in tensors.items()}  # fmt: skip
    lora = open_on(write(tmp_path / "x.safetensors", tensors))
    for dtype in (torch.float16, torch.bfloat16):
        base = UNetDenoiser(tiny.unet().to(dtype))
        found_weights, wanted = weights_of(apply(base, (lora,))), expected(base, found, scale)
        equal = [torch.equal(found_weights[name], value) for name, value in wanted.items()]
        assert all(equal) and found_weights["conv_in.weight"].dtype == dtype


@pytest.mark.parametrize("kind", CONFIGS)
def test_no_name_means_two_layers(kind):
    weights = [name for name, value in weights_of(unet(kind)).items() if value.ndim > 1]
    every = [layer_names([weight], CONFIGS[kind]) for weight in weights]
    assert sum(map(len, every)) == len(layer_names(weights, CONFIGS[kind]))


NAMES = st.builds(
    lambda layer, ending: layer + ending,
    st.sampled_from([
        f"lora_unet_{flat(LAYERS[0])}", f"unet.{LAYERS[0]}", f"lora_unet_{flat(CONVOLUTIONS[1])}",
        "lora_unet_conv_norm_out", "lora_te_x", "lora_unet_", "", "unet.", "\u5b57",
    ]),
    st.sampled_from([
        ".lora_up.weight", ".lora_down.weight", ".lora_mid.weight", ".alpha", ".lora_A.weight",
        ".lora_B.weight", "_lora.up.weight", ".dora_scale", ".diff", "", ".lora_B.bias", ".x",
    ]),
)  # fmt: skip
SHAPES = st.lists(st.sampled_from([1, 2, 3, 32, 64]), max_size=5).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.int8, torch.bool, torch.float64])


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(NAMES.filter(bool), st.tuples(SHAPES, DTYPES), max_size=8))
def test_any_header_gives_a_lora_or_one_of_our_errors(tmp_path, entries):
    tensors = {name: torch.ones(shape, dtype=dtype) for name, (shape, dtype) in entries.items()}
    path = write(tmp_path / "x.safetensors", tensors)
    try:
        lora = open_on(path)
    except PipelineError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        for layer in lora.layers:
            change = lora.change(layer)
            assert change.shape == shapes("sd1")[layer.target]
            assert change.dtype == torch.float64 and bool((change != 0).all())


def test_folders_find_names_and_never_leave(tmp_path):
    first, second = tmp_path / "one", tmp_path / "two"
    for folder, name in ((first, "a"), (second, "a"), (second / "sub", "b"), (second, ".c")):
        folder.mkdir(exist_ok=True)
        write(folder / f"{name}.safetensors", {"x": torch.ones(1)})
    (second / "notes.txt").write_text("x", encoding="utf-8")
    folders = AdapterFolders("loras", (first, second, tmp_path / "absent"))
    assert folders.list_names() == ["a.safetensors", "sub/b.safetensors"]
    assert folders.find("a") == folders.find("a.safetensors") == first / "a.safetensors"
    assert folders.find("sub/b") == second / "sub" / "b.safetensors"
    assert folders.find_file(str(first / "a.safetensors")) == first / "a.safetensors"
    with pytest.raises(ModelNotFound, match=r"no LoRA 'sub/c' .* did you mean 'sub/b'\?; found: a"):
        folders.find("sub/c")
    for hostile in ("../two/a", "/etc/passwd", "a\x00", "..", "notes.txt"):
        with pytest.raises((InvalidRequest, ModelNotFound)):
            folders.find(hostile)
    with pytest.raises(ModelNotFound, match="no LoRA lies at"):
        folders.find_file("/nowhere/x.safetensors")


def test_files_are_written_as_expected(tmp_path):
    """The tests' own files are what the spellings say: real trainers' names appear literally."""
    names = load_file(write(tmp_path / "x.safetensors", spell(pairs())[0]))
    assert (
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_out_0.lora_up.weight"
        in names
    )
    assert re.fullmatch(r"input_blocks\.4\.1\.proj_in", ldm_of(LAYERS[4]))
