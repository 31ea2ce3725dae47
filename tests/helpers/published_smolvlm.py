"""A tiny SmolVLM (Idefics3) with random weights, in the layout that its makers publish as ONNX graphs.

transformers' own processor and `generate` say what its captions are; they are needed for that, and to write the folder.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import onnx
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from captionkit.inference.published.chat import QUESTIONS
from published import change_json, export

TILE, LONGEST, PATCH, FACTOR, POSITIONS = 16, 64, 4, 2, 512
IMAGE_LENGTH = (TILE // PATCH) ** 2 // FACTOR**2
#: that of SmolVLM
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_SPECIAL = ["<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"]
_CONFIGS = {
    "idefics3": (Idefics3Config, Idefics3ForConditionalGeneration),
    "smolvlm": (SmolVLMConfig, SmolVLMForConditionalGeneration),
}


class Chat(NamedTuple):
    """A network with what prepares its inputs."""

    network: Any
    processor: Any

    def inputs(self, image: Image.Image, style: str = "short") -> Any:
        """What transformers' processor makes of a question about an image."""
        content = [{"type": "image"}, {"type": "text", "text": QUESTIONS[style]}]
        asked = [{"role": "user", "content": content}]
        prompt = self.processor.apply_chat_template(asked, add_generation_prompt=True)
        return self.processor(text=prompt, images=[image], return_tensors="pt")

    @torch.inference_mode()
    def generate(self, image: Image.Image, style: str = "short", **options: Any) -> list[int]:
        """The token ids that transformers' `generate` answers, up to the end token."""
        given = self.inputs(image, style)
        (row,) = self.network.generate(**given, do_sample=False, **options)
        said = row[given["input_ids"].shape[1] :].tolist()
        end = self.network.generation_config.eos_token_id
        return said[: said.index(end)] if end in said else said


def make_chat(kind: str = "idefics3", **processing: Any) -> Chat:
    """A network and a processor, whose image processor has the settings `processing`."""
    tokenizer = _tokenizer()
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": LONGEST}, max_image_size={"longest_edge": TILE}, **processing
    )
    processor = Idefics3Processor(images, tokenizer, image_seq_len=IMAGE_LENGTH, chat_template=TEMPLATE)
    return Chat(_network(kind, tokenizer), processor)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs of a few words, with the tokens that stand for parts of an image."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("Ġ", "a"), ("t", "h"), ("Ġ", "th"), ("i", "n"), ("o", "n"), ("e", "r"), ("Ġ", "d"), ("Ġd", "o")]
    words = [*alphabet, *(left + right for left, right in pairs)]
    made = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, pairs))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    places = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    made.add_special_tokens([*_SPECIAL, *places])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<|im_start|>", eos_token="<end_of_utterance>", pad_token="<|im_start|>"
    )


def _network(kind: str, tokenizer: PreTrainedTokenizerFast) -> Any:
    start, end, image = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<end_of_utterance>", "<image>"])
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": TILE,
        "patch_size": PATCH,
    }
    text = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": start,
    }
    config, model = _CONFIGS[kind]
    torch.manual_seed(0)
    network = model(
        config(vision_config=vision, text_config=text, scale_factor=FACTOR, image_token_id=image, pad_token_id=start)
    )
    for name, parameter in network.named_parameters():  # larger than at the start of training
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=2.0 / parameter[0].numel() ** 0.5 if "embed" not in name else 1.0)
    network.generation_config = GenerationConfig(bos_token_id=start, eos_token_id=end, pad_token_id=start)
    network.set_attn_implementation("eager")
    return network.float().eval()


def let_end(chat: Chat, images: list[Image.Image]) -> None:
    """Make the end token one that the network often generates for these images, though not at first."""
    said = [chat.generate(image, max_new_tokens=8) for image in images]
    early = {token for answer in said for token in answer[:2]}
    often = Counter(token for answer in said for token in set(answer[2:]) - early)
    end = often.most_common(1)[0][0]
    chat.network.generation_config.eos_token_id = chat.network.config.text_config.eos_token_id = end


def publish_chat(chat: Chat, path: Path, *, suffix: str = "") -> Path:
    """Write the folder as it is published: configs, chat_template.json and three graphs."""
    chat.network.save_pretrained(path)
    (path / "model.safetensors").unlink()
    chat.processor.tokenizer.save_pretrained(path)
    (path / "chat_template.jinja").unlink(missing_ok=True)
    chat.processor.image_processor.save_pretrained(path)
    change_json(path / "preprocessor_config.json", image_processor_type="Idefics3ImageProcessor")
    stored = {"image_seq_len": IMAGE_LENGTH, "processor_class": "Idefics3Processor"}
    (path / "processor_config.json").write_text(json.dumps(stored), encoding="utf-8")
    (path / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}), encoding="utf-8")
    (path / "onnx").mkdir()
    for name, graph in _graphs(chat.network).items():
        onnx.save(graph, path / "onnx" / f"{name}{suffix}.onnx")
    return path


def _graphs(network: Any) -> dict[str, Any]:
    tiles, masks = torch.randn(1, 3, 3, TILE, TILE), torch.ones(1, 3, TILE, TILE, dtype=torch.bool)
    many, length, width = {1: "tiles"}, {1: "length"}, network.config.text_config.hidden_size
    embed = _Embed(network.get_input_embeddings())
    with patch.object(torch, "bucketize", _bucketize), patch.object(torch, "full", _full):
        vision = export(
            _Vision(network.model),
            (tiles, masks),
            ["pixel_values", "pixel_attention_mask"],
            ["image_features"],
            {"pixel_values": many, "pixel_attention_mask": many},
        )
    return {
        "vision_encoder": vision,
        "embed_tokens": export(
            embed, (torch.tensor([[1, 4, 5]] * 2),), ["input_ids"], ["inputs_embeds"], {"input_ids": length}
        ),
        "decoder_model_merged": _decoder_graph(network, width),
    }


def _bucketize(values: Tensor, boundaries: Tensor, *, right: bool) -> Tensor:
    """`torch.bucketize`, of which the exporter makes a graph that cannot be loaded."""
    assert right
    return (values[..., None] >= boundaries).sum(-1)


def _full(*, fill_value: int, **given: Any) -> Tensor:
    """`torch.full`, whose type the exporter takes to be a float's."""
    return torch.zeros(**given, dtype=torch.long) + fill_value


class _Embed(nn.Module):
    def __init__(self, embeddings: nn.Module) -> None:
        super().__init__()
        self.embeddings = embeddings

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embeddings(tokens)


class _Vision(nn.Module):
    """Tiles [B,n,3,side,side] with masks -> features [B*n,s,D]. The frames of the tiles are full."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tiles: Tensor, masks: Tensor) -> Tensor:
        flat = tiles.flatten(0, 1)  # [B,n,3,side,side] -> [N,3,side,side]
        patches = masks.flatten(0, 1)[:, ::PATCH, ::PATCH].contiguous()  # [B,n,side,side] -> [N,p,p]
        hidden = self.model.vision_model(pixel_values=flat, patch_attention_mask=patches).last_hidden_state
        return self.model.connector(hidden)


class _Decoder(nn.Module):
    """All steps in one graph: the cache may be empty."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, embeddings: Tensor, mask: Tensor, positions: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        layers = len(caches) // 2
        cache = DynamicCache()
        for layer in range(layers):
            cache.update(caches[2 * layer], caches[2 * layer + 1], layer)
        before = torch.arange(mask.shape[1])[None, None, None] <= positions[:, None, :, None]  # [N,1,L,P+L]
        seen = before & mask[:, None, None].bool()  # [N,1,L,P+L]
        hidden = self.network.model.text_model(
            inputs_embeds=embeddings,
            attention_mask=torch.where(seen, 0.0, torch.finfo(torch.float32).min),
            position_ids=positions,
            past_key_values=cache,
        ).last_hidden_state
        found = [self.network.lm_head(hidden)]
        for layer in range(layers):
            found += [cache.layers[layer].keys, cache.layers[layer].values]
        return tuple(found)


def _decoder_graph(network: Any, width: int) -> onnx.ModelProto:
    config = network.config.text_config
    past, new = 3, 2
    shape = (2, config.num_key_value_heads, past, width // config.num_attention_heads)
    names = [f"{layer}.{part}" for layer in range(config.num_hidden_layers) for part in ("key", "value")]
    pasts, presents = ([f"{kind}.{name}" for name in names] for kind in ("past_key_values", "present"))
    mask, positions = torch.ones(2, past + new, dtype=torch.long), torch.arange(past, past + new).repeat(2, 1)
    dynamic = {
        **{name: {2: "past"} for name in pasts},
        **{name: {2: "all"} for name in presents},
        **{name: {1: "length"} for name in ("inputs_embeds", "position_ids", "logits")},
        "attention_mask": {1: "all"},
    }
    given = (torch.randn(2, new, width), mask, positions, *(torch.randn(shape) for _ in names))
    inputs = ["inputs_embeds", "attention_mask", "position_ids", *pasts]
    return export(_Decoder(network), given, inputs, ["logits", *presents], dynamic)


def mixed_images() -> list[Image.Image]:
    """Twenty images of many shapes: sample photographs of scikit-image, and some made here."""
    from captionkit.viz.samples import sample_photos

    generator = np.random.default_rng(3)
    sizes = [(48, 40), (40, 48), (90, 20), (20, 90), (7, 5), (200, 3), (17, 16), (16, 16)]
    made = [
        Image.fromarray(generator.integers(0, 255, (5, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        for size in sizes
    ]
    photos = [photo for _, photo in sample_photos()]
    cropped = [photo.crop((0, 0, photo.width // 2, photo.height)) for photo in photos]
    return [*photos, *cropped, *made]
