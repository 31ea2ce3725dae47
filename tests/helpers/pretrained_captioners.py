"""Tiny captioners of transformers' own classes, with random weights, saved as their makers save them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    Blip2Config,
    Blip2ForConditionalGeneration,
    BlipConfig,
    BlipForConditionalGeneration,
    Florence2Config,
    Florence2ForConditionalGeneration,
    GenerationConfig,
    GitConfig,
    GitForCausalLM,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)

SIDE, VOCABULARY, POSITIONS, PAD = 32, 64, 60, 0
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 8,
}
_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": PAD,
}
_BART = {
    "vocab_size": VOCABULARY,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": PAD,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
_DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 24,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": POSITIONS,
        "bos_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 2,
    },
    "bert": _TEXT,
    "roberta": _TEXT,
    "bart": _BART,
    "mbart": {**_BART, "scale_embedding": True},
    "trocr": {**_BART, "scale_embedding": True, "use_learned_position_embeddings": False, "use_cache": True},
}


def _blip() -> Any:
    text = {**_TEXT, "encoder_hidden_size": 32, "sep_token_id": 3}
    return BlipForConditionalGeneration(BlipConfig(vision_config=_VISION, text_config=text))


def _git() -> Any:
    return GitForCausalLM(GitConfig(vision_config=_VISION, **_TEXT))


def _joined(kind: str, vision: str = "vit") -> Callable[[], Any]:
    def build() -> Any:
        encoder = AutoConfig.for_model(vision, **_VISION)
        decoder = AutoConfig.for_model(kind, **_DECODERS[kind], is_decoder=True, add_cross_attention=True)
        config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
        network = VisionEncoderDecoderModel(config)
        network.config.decoder_start_token_id = network.config.pad_token_id = 2
        network.generation_config = GenerationConfig(decoder_start_token_id=2, pad_token_id=2, eos_token_id=2)
        return network

    return build


def _blip2() -> Any:
    qformer = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    opt = {
        "model_type": "opt",
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "ffn_dim": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "word_embed_proj_dim": 24,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": PAD,
    }
    config = Blip2Config(
        vision_config=_VISION,
        qformer_config={**qformer, "encoder_hidden_size": 32, "vocab_size": VOCABULARY},
        text_config=opt,
        num_query_tokens=5,
        image_token_index=VOCABULARY - 1,
    )
    return Blip2ForConditionalGeneration(config)


def _florence2() -> Any:
    vision = {
        "depths": [1, 1, 1, 1],
        "embed_dim": [8, 8, 16, 16],
        "num_heads": [2, 2, 2, 2],
        "num_groups": [2, 2, 2, 2],
        "window_size": 4,
        "projection_dim": 24,
        "patch_stride": [2, 2, 2, 1],
    }
    text = {"model_type": "bart", **_BART, "forced_bos_token_id": None}
    return Florence2ForConditionalGeneration(
        Florence2Config(vision_config=vision, text_config=text, image_token_id=VOCABULARY - 1)
    )


#: the networks, by a name for them
BUILDERS: dict[str, Callable[[], Any]] = {
    "blip": _blip,
    "git": _git,
    "blip2": _blip2,
    "florence2": _florence2,
    "deit-gpt2": _joined("gpt2", "deit"),
    **{f"vit-{kind}": _joined(kind) for kind in _DECODERS},
}


def images(many: int = 20) -> list[Image.Image]:
    """Images that are nowhere plain, each unlike the others."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 255, (many, 5, 5, 3), dtype=np.uint8)
    return [Image.fromarray(one).resize((48, 40), Image.Resampling.BICUBIC) for one in coarse]


def network_of(name: str) -> Any:
    """A network with larger weights than at the start of training, so that captions depend on the image, and end."""
    torch.manual_seed(0)
    network = BUILDERS[name]().eval()
    torch.manual_seed(0)
    for place, parameter in network.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=_spread(place, parameter))
    _let_end(network)
    return network


def _spread(name: str, parameter: torch.nn.Parameter) -> float:
    """The standard deviation of a weight: positions vary most and words least, or a caption would repeat one word."""
    if "position" in name or "wpe" in name:
        return 2.0
    if any(part in name for part in ("word_embeddings", "embed_tokens", "shared", "wte")):
        return 0.3
    return 3.0 / parameter[0].numel() ** 0.5


def _let_end(network: Any) -> None:
    """Make the end token one that the network often generates, though not at first."""
    pixels = torch.randn(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    said = generate(network, pixels, max_new_tokens=10)
    early = {token for caption in said for token in caption[:2]}
    often = Counter(token for caption in said for token in set(caption[2:]) - early - {PAD, 1, 2, 3, VOCABULARY - 1})
    set_end(network, often.most_common(1)[0][0] if often else 3)


def set_end(network: Any, token: int) -> None:
    """Make `token` end captions."""
    if isinstance(network, BlipForConditionalGeneration):
        network.config.text_config.sep_token_id = token
    for part in (network, *(getattr(network, name, None) for name in ("text_decoder", "language_model"))):
        if part is not None and getattr(part, "generation_config", None) is not None:
            part.generation_config.eos_token_id = token
            part.config.eos_token_id = token
    if hasattr(network.config, "text_config"):
        network.config.text_config.eos_token_id = token


@torch.inference_mode()
def generate(network: Any, pixels: torch.Tensor, **options: Any) -> list[list[int]]:
    """What transformers' `generate` says of `pixels` [B,3,H,W]: token ids without those given and from the end on."""
    given, many = {}, len(pixels)
    if isinstance(network, Florence2ForConditionalGeneration):
        shape = network.model.vision_tower(pixels[:1]).last_hidden_state.shape
        image = [VOCABULARY - 1] * (1 + shape[2] * shape[3])
        given["input_ids"] = torch.tensor([[*image, *PROMPT]] * many)
    out = network.generate(
        pixel_values=pixels, **given, do_sample=False, return_dict_in_generate=True, output_scores=True, **options
    )
    end = _end(network)
    rows = [row[-len(out.scores) :].tolist() for row in out.sequences]
    if "beam_indices" in out:  # sequences may be shorter than the steps taken
        first = out.sequences.shape[1] - int((out.beam_indices >= 0).sum(1).max())
        rows = [row[first:].tolist() for row in out.sequences]
    return [row[: row.index(end)] if end in row else row for row in rows]


def _end(network: Any) -> int:
    if isinstance(network, BlipForConditionalGeneration):
        return network.config.text_config.sep_token_id
    part = getattr(network, "language_model", None) or network
    found = part.generation_config.eos_token_id
    return found[0] if isinstance(found, list) else found


#: Florence-2's prompt in the tiny tokenizer, from begin to end token
PROMPT: list[int] = []


def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer that puts `<s>` and `</s>` around a text."""
    words = ["what", "does", "the", "image", "describe", "?"]
    names = ["<pad>", "<s>", "</s>", "<unk>", *words]
    names += [f"w{number}" for number in range(VOCABULARY - len(names) - 1)] + ["<image>"]
    made = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece(prefix="##")
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


PROMPT += tokenizer()("What does the image describe?").input_ids


def save(network: Any, path: Path) -> Path:
    """Save a network with its tokenizer and image processor, and a card with a licence."""
    network.save_pretrained(path)
    tokenizer().save_pretrained(path)
    crop = isinstance(network, GitForCausalLM)
    size = {"shortest_edge": SIDE} if crop else {"height": SIDE, "width": SIDE}
    cropped = {"do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}} if crop else {}
    half = [0.5, 0.5, 0.5]
    name = "CLIPImageProcessorPil" if crop else "ViTImageProcessorPil"
    getattr(transformers, name)(size=size, image_mean=half, image_std=half, resample=3, **cropped).save_pretrained(path)
    (path / "README.md").write_text("---\nlicense: bsd-3-clause\n---\n# A captioner\n", encoding="utf-8")
    return path
