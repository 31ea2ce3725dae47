"""The families of captioners: from a network of transformers to an `ImportedModel` and the tokens it starts with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from captionkit.errors import ModelError
from captionkit.export.importers.bart import BartDecoder
from captionkit.export.importers.bert import BertDecoder
from captionkit.export.importers.decoding import ImportedDecoder
from captionkit.export.importers.gpt2 import Gpt2Decoder
from captionkit.export.importers.model import Cells, ImportedModel
from captionkit.inference.published.florence2 import PROMPTS


@dataclass(frozen=True)
class Request:
    """What a family is built from: transformers' network, its tokenizer, the images' size and the caption style."""

    network: Any
    tokenizer: Any
    height: int
    width: int
    style: str

    def grid(self, encoder: nn.Module) -> tuple[int, int] | None:
        """Return rows and columns of an encoder's cells for these images; None where it has no grid."""
        from captionkit.data.images import Preprocessing
        from captionkit.models.huggingface import HuggingFaceEncoder

        try:
            return HuggingFaceEncoder(encoder, Preprocessing(self.height, self.width)).grid(self.height, self.width)
        except ModelError:
            return None


@dataclass(frozen=True)
class Imported:
    """A captioner ready to export."""

    model: ImportedModel
    #: the tokens that are fed before the first generated one
    start: tuple[int, ...]
    #: the token that ends a caption
    end: int
    #: what `generate` is given beside the image
    prompt: Mapping[str, Tensor] = field(default_factory=dict)


class TokenEncoder(nn.Module):
    """A vision network of transformers whose last hidden state is projected to what the decoder takes."""

    def __init__(self, network: nn.Module, project: nn.Module | None = None) -> None:
        super().__init__()
        self.network, self.project = network, project or nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Encode `images` [B,3,H,W] -> [B,M,D]."""
        return self.project(self.network(pixel_values=images).last_hidden_state)


def blip(request: Request) -> Imported:
    """BLIP: its text decoder starts with its begin token and ends with the separator, as its `generate` says."""
    network, config = request.network, request.network.config.text_config
    text = network.text_decoder
    decoder = BertDecoder(text.bert.embeddings, text.bert.encoder.layer, text.cls)
    encoder = TokenEncoder(network.vision_model)
    model = ImportedModel(encoder, decoder, _last_cells(request, network.vision_model, encoder))
    return Imported(model, (config.bos_token_id,), config.sep_token_id)


def git(request: Request) -> Imported:
    """GIT: image tokens that see only one another stand before the words. One image, not a video's frames."""
    network, config = request.network, request.network.config
    if config.num_image_with_embedding:
        raise ModelError("is a GIT for videos, which captions several frames at once; name one for images")
    body = network.git
    decoder = BertDecoder(body.embeddings, body.encoder.layer, network.output)
    encoder = TokenEncoder(body.image_encoder, body.visual_projection)
    model = ImportedModel(encoder, decoder, _last_cells(request, body.image_encoder, encoder))
    return Imported(model, (_start(network),), _end(network))


def vision_encoder_decoder(request: Request) -> Imported:
    """Any vision encoder joined to a decoder with cross-attention that `DECODERS` knows, such as ViT-GPT2."""
    network = request.network
    kind = network.decoder.config.model_type
    if kind not in DECODERS:
        raise ModelError(f"its decoder is of the kind {kind!r}; kinds that can be imported: {', '.join(DECODERS)}")
    encoder = TokenEncoder(network.encoder, getattr(network, "enc_to_dec_proj", None))
    model = ImportedModel(encoder, DECODERS[kind](network.decoder), _last_cells(request, network.encoder, encoder))
    return Imported(model, (_start(network),), _end(network))


def blip2(request: Request) -> Imported:
    """BLIP-2 with OPT: the queries that its Q-Former reads from the image stand before the words."""
    network = request.network
    language = network.language_model
    if language.config.model_type != "opt":
        raise ModelError(f"its language model is of the kind {language.config.model_type!r}; only OPT can be imported")
    decoder = _opt(language)
    start = network.config.num_query_tokens
    model = ImportedModel(_QueryEncoder(network, decoder), decoder, None, start=start, causal=True)
    return Imported(model, (network.config.text_config.bos_token_id,), _end(language))


class _QueryEncoder(nn.Module):
    """BLIP-2's image encoder, Q-Former and projection, with the positions of the language model."""

    def __init__(self, network: Any, decoder: BartDecoder) -> None:
        super().__init__()
        self.vision, self.qformer, self.project = network.vision_model, network.qformer, network.language_projection
        self.queries, self.decoder = network.query_tokens, decoder

    def forward(self, images: Tensor) -> Tensor:
        """Encode `images` [B,3,H,W] -> the embedded prefix [B,M,W]."""
        seen = self.vision(images).last_hidden_state  # [B,P,D]
        # The shape, not len: the exporter makes a number of that.
        queries = self.queries.expand(images.shape[0], -1, -1)  # [1,M,Q] -> [B,M,Q]
        read = self.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state  # [B,M,Q]
        places = torch.arange(queries.shape[1], device=images.device)
        return self.decoder.begin(self.project(read), places)


def florence2(request: Request) -> Imported:
    """Florence-2: image features and a prompt go through BART's encoder, and its decoder attends to both."""
    network = request.network
    body = network.model.language_model
    decoder = BartDecoder(body.decoder, network.lm_head, norm_first=False)
    prompt = PROMPTS[request.style]
    ids = request.tokenizer(prompt, return_tensors="pt").input_ids  # <s> ... </s>, [1,L]
    encoder = _PromptedEncoder(network.model, ids)
    cells = _florence_cells(encoder, request)
    image = torch.full((1, cells.first + cells.rows * cells.columns), network.config.image_token_id)  # [1,I]
    given = torch.cat([image, ids], 1)  # [1,I], [1,L] -> [1,M]
    return Imported(ImportedModel(encoder, decoder, cells), (_start(network),), _end(network), {"input_ids": given})


class _PromptedEncoder(nn.Module):
    """Florence-2's image encoder, and the language model's encoder over its features and a fixed prompt."""

    prompt: Tensor

    def __init__(self, network: Any, prompt: Tensor) -> None:
        super().__init__()
        self.network, self.encoder = network, network.language_model.encoder
        self.register_buffer("prompt", network.get_input_embeddings()(prompt).detach(), persistent=False)  # [1,L,W]

    def forward(self, images: Tensor) -> Tensor:
        """Encode `images` [B,3,H,W] -> [B,M,W]: the image's tokens, then the prompt's."""
        seen = self.network.get_image_features(images).pooler_output  # [B,I,W]
        given = torch.cat([seen, self.prompt.expand(images.shape[0], -1, -1)], 1)  # [B,I,W], [B,L,W] -> [B,M,W]
        return self.encoder(inputs_embeds=given).last_hidden_state


@torch.inference_mode()
def _florence_cells(encoder: _PromptedEncoder, request: Request) -> Cells:
    """Return the cells of Florence-2: the last stage's map in row-major order, after one token of its mean."""
    shape = encoder.network.vision_tower(torch.zeros(1, 3, request.height, request.width)).last_hidden_state.shape
    return Cells(shape[2], shape[3], 1)


@torch.inference_mode()
def _last_cells(request: Request, vision: nn.Module, encoder: nn.Module) -> Cells | None:
    """Return the cells of an encoder whose last tokens are its grid; None where it has none."""
    grid = request.grid(vision)
    if grid is None:
        return None
    tokens = encoder(torch.zeros(1, 3, request.height, request.width)).shape[1]
    return Cells(*grid, tokens - grid[0] * grid[1])


def _bert(network: Any) -> ImportedDecoder:
    return BertDecoder(network.bert.embeddings, network.bert.encoder.layer, network.cls)


def _roberta(network: Any) -> ImportedDecoder:
    table = network.roberta.embeddings
    return BertDecoder(table, network.roberta.encoder.layer, network.lm_head, first=table.padding_idx + 1)


def _bart(network: Any) -> ImportedDecoder:
    return BartDecoder(network.model.decoder, network.lm_head, norm_first=False)


def _mbart(network: Any) -> ImportedDecoder:
    return BartDecoder(network.model.decoder, network.lm_head, norm_first=True)


def _trocr(network: Any) -> ImportedDecoder:
    return BartDecoder(network.model.decoder, network.output_projection, norm_first=False)


def _opt(network: Any) -> BartDecoder:
    body = network.model.decoder
    return BartDecoder(body, network.lm_head, norm_first=body.config.do_layer_norm_before)


#: decoders of a VisionEncoderDecoder, by transformers' model type
DECODERS: Mapping[str, Callable[[Any], ImportedDecoder]] = {
    "gpt2": Gpt2Decoder,
    "bert": _bert,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
    "camembert": _roberta,
    "bart": _bart,
    "mbart": _mbart,
    "trocr": _trocr,
}

#: families, by transformers' model type
FAMILIES: Mapping[str, Callable[[Request], Imported]] = {
    "blip": blip,
    "git": git,
    "vision-encoder-decoder": vision_encoder_decoder,
    "blip-2": blip2,
    "florence2": florence2,
}


def _start(network: Any) -> int:
    """Return the token that `generate` starts with."""
    found = network.generation_config
    start = found.bos_token_id if found.decoder_start_token_id is None else found.decoder_start_token_id
    return _single(start, "start")


def _end(network: Any) -> int:
    return _single(network.generation_config.eos_token_id, "end")


def _single(token: Any, what: str) -> int:
    if isinstance(token, (list, tuple)) and len(token) == 1:
        token = token[0]
    if not isinstance(token, int):
        raise ModelError(
            f"its generation config names no single {what} token, but {token!r}; set one and save it again"
        )
    return token
