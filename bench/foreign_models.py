"""Captioners of transformers with random weights, of real size or tiny, saved as their makers save them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

#: model -> pixels of an image's side, at real size
SIDES = {"blip-base": 384, "vit-gpt2": 224, "florence-2-base": 768}
_TINY_SIDE = 64
#: sizes of an encoder or a decoder that takes milliseconds
_TINY_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 16,
}
_TINY_TEXT = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
_TINY_GPT2 = {"n_embd": 24, "n_layer": 2, "n_head": 4}
_FLORENCE_VISION = {"projection_dim": 768}
_TINY_FLORENCE_VISION = {
    "depths": [1, 1, 1, 1],
    "embed_dim": [8, 8, 16, 16],
    "num_heads": [2, 2, 2, 2],
    "num_groups": [2, 2, 2, 2],
    "window_size": 4,
    "projection_dim": 24,
}
#: of Florence-2-base: its vocabulary with the tokens of places, and the one that stands for the image
_FLORENCE_WORDS, _FLORENCE_IMAGE = 51328, 51289


def side_of(name: str, *, tiny: bool) -> int:
    """Return the side of an image in pixels."""
    return _TINY_SIDE if tiny else SIDES[name]


def save(name: str, path: Path, *, tiny: bool = False) -> None:
    """Save a network, a tokenizer of two words and an image processor in the folder `path`, whole or not at all."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    part = path.with_name(f"{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    torch.manual_seed(0)
    _network(name, tiny).save_pretrained(part)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "photo": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(part)
    side = side_of(name, tiny=tiny)
    stored = {"image_processor_type": "ViTImageProcessor", "size": {"height": side, "width": side}, "resample": 3}
    stored |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_resize": True, "do_normalize": True}
    (part / "preprocessor_config.json").write_text(json.dumps(stored), encoding="utf-8")
    part.rename(path)


def _network(name: str, tiny: bool) -> Any:
    made = {"blip-base": _blip, "vit-gpt2": _vit_gpt2, "florence-2-base": _florence2}
    return made[name](side_of(name, tiny=tiny), tiny)


def _blip(side: int, tiny: bool) -> Any:
    import transformers

    vision, text = (_TINY_VISION, _TINY_TEXT) if tiny else ({}, {})
    vision = {**vision, "image_size": side}
    config = transformers.BlipConfig(
        vision_config=vision, text_config={**text, "encoder_hidden_size": vision.get("hidden_size", 768)}
    )
    return transformers.BlipForConditionalGeneration(config)


def _vit_gpt2(side: int, tiny: bool) -> Any:
    import transformers

    vision, text = (_TINY_VISION, _TINY_GPT2) if tiny else ({}, {})
    decoder = transformers.GPT2Config(is_decoder=True, add_cross_attention=True, **text)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**{**vision, "image_size": side}), decoder
    )
    ends = dict.fromkeys(("decoder_start_token_id", "eos_token_id", "pad_token_id"), decoder.eos_token_id)
    config.update(ends)
    network = transformers.VisionEncoderDecoderModel(config)
    network.generation_config.update(**ends)
    return network


def _florence2(side: int, tiny: bool) -> Any:
    import transformers

    width, layers, heads = (24, 2, 4) if tiny else (768, 6, 12)
    text = {
        "model_type": "bart",
        "vocab_size": _FLORENCE_WORDS,
        "d_model": width,
        "encoder_layers": layers,
        "decoder_layers": layers,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * width,
        "decoder_ffn_dim": 4 * width,
    }
    vision = _TINY_FLORENCE_VISION if tiny else _FLORENCE_VISION
    config = transformers.Florence2Config(vision_config=vision, text_config=text, image_token_id=_FLORENCE_IMAGE)
    return transformers.Florence2ForConditionalGeneration(config)
