"""A tiny CLIP of random weights, as transformers saves it and as others publish it in ONNX graphs."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

SIDE, LENGTH = 32, 77
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LETTERS = sorted(ByteLevel.alphabet())
VOCABULARY = {
    token: n
    for n, token in enumerate([*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"])
}
START, END = VOCABULARY["<|startoftext|>"], VOCABULARY["<|endoftext|>"]


def tiny_clip(path: Path) -> Path:
    """Save a CLIP of random weights, whose tokens are letters, as a folder like those of the Hub."""
    torch.manual_seed(0)
    layers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**layers, "vocab_size": len(VOCABULARY), "max_position_embeddings": LENGTH}
    ends = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": END}
    vision = {**layers, "image_size": SIDE, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config={**text, **ends}, vision_config=vision, projection_dim=8)).eval()
    for name, parameter in model.named_parameters():  # larger than at the start of training: embeddings lie apart
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4 if "embedding" in name else 0.3)
    model.save_pretrained(path)
    CLIPTokenizer(vocab=VOCABULARY, merges=[], model_max_length=LENGTH).save_pretrained(path)
    settings = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": SIDE}, "resample": 3}
    crop = {"do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}}
    (path / "preprocessor_config.json").write_text(
        json.dumps({**settings, **crop, "image_mean": MEAN, "image_std": STD})
    )
    return path


class _Text(torch.nn.Module):
    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.clip.get_text_features(input_ids).pooler_output


class _Vision(_Text):
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.clip.get_image_features(pixel_values).pooler_output


class _Joint(_Text):
    def forward(
        self, input_ids: torch.Tensor, pixel_values: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        out = self.clip(input_ids=input_ids, pixel_values=pixel_values, attention_mask=attention_mask)
        return out.logits_per_image, out.text_embeds, out.image_embeds


def published_clip(folder: Path, root: Path) -> dict[str, Path]:
    """Export the CLIP of `folder` to two graphs and to one, each in a folder without weights as others publish them."""
    clip = CLIPModel.from_pretrained(folder, attn_implementation="eager").eval()
    ids, photo, mask = torch.full((2, 9), END), torch.zeros(2, 3, SIDE, SIDE), torch.ones(2, 9, dtype=torch.long)
    texts, seen = {0: "texts", 1: "length"}, {0: "images"}
    for name, kind, given, outputs in (
        ("two/onnx/text_model.onnx", _Text, {"input_ids": (ids, texts)}, ["text_embeds"]),
        ("two/onnx/vision_model.onnx", _Vision, {"pixel_values": (photo, seen)}, ["image_embeds"]),
        (
            "one/model.onnx",
            _Joint,
            {"input_ids": (ids, texts), "pixel_values": (photo, seen), "attention_mask": (mask, texts)},
            ["logits_per_image", "text_embeds", "image_embeds"],
        ),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                kind(clip).eval(),
                tuple(tensor for tensor, _ in given.values()),
                root / name,
                input_names=list(given),
                output_names=outputs,
                dynamic_axes={key: axes for key, (_, axes) in given.items()},
                dynamo=False,
            )
    for place in (root / "two", root / "one"):
        for file in ("config.json", "tokenizer.json", "preprocessor_config.json"):
            shutil.copy(folder / file, place / file)
    return {"two": root / "two", "one": root / "one"}
