"""Tiny decoders, adapters and requests for the tests of serving."""

import copy

import torch

from course_lib.adapters import inject_lora, save_adapter
from course_lib.inference import generate
from course_lib.inference.server.engine import BatchingEngine
from course_lib.inference.server.requests import Request
from course_lib.inference.server.settings import EngineSettings
from course_lib.models.config import DecoderConfig
from course_lib.models.decoder import Decoder

VOCABULARY = 96
TIE = 1e-4  # two logits as near as this may change places where sums are taken in another order


def tiny_decoder(tie_word_embeddings=False):
    """A Llama of two layers whose logits lie well apart. With a tied head it would repeat its last token for ever."""
    torch.manual_seed(1)
    config = DecoderConfig("llama", VOCABULARY, 64, 2, 4, 256, 96, 2, tie_word_embeddings=tie_word_embeddings)
    model = Decoder(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6)
    return model


def with_adapter(model, seed, targets=("q_proj", "v_proj", "down_proj"), rank=2):
    """A copy of the model with a LoRA adapter that changes what it says."""
    model = copy.deepcopy(model)
    torch.manual_seed(seed)
    inject_lora(model, list(targets), rank=rank, alpha=4)
    for name, parameter in model.named_parameters():
        if name.endswith(".B"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def adapter_folders(model, folder, **seeds):
    """Folders of adapters by name, and each one's model: `adapter_folders(model, tmp_path, a=1, b=2)`."""
    models = {name: with_adapter(model, seed, rank=1 + seed) for name, seed in seeds.items()}
    for name, each in models.items():
        save_adapter(each, folder / name)
    return {name: folder / name for name in models}, models


def tiny_engine(model=None, adapters=None, tokenizer=None, weights="float32", **settings):
    """An engine on a copy of the tiny decoder."""
    model = copy.deepcopy(model) if model is not None else tiny_decoder()
    defaults = {"max_pages": 64, "page_size": 4, "max_queue": 1000}
    return BatchingEngine(model, tokenizer, adapters, EngineSettings(**defaults | settings), weights)


def read(ticket):
    """All tokens of an answer, and its finish reason."""
    pieces = list(ticket)
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    return [token for piece in pieces for token in piece.tokens], pieces[-1].finish_reason


def random_requests(count, adapters=(None,), seed=0, longest=40, new=12):
    """Requests of unlike lengths, many of which begin alike."""
    generator = torch.Generator().manual_seed(seed)

    def number(high):
        return int(torch.randint(high, (), generator=generator))

    beginnings = [torch.randint(VOCABULARY, (longest,), generator=generator).tolist() for _ in range(3)]
    requests = []
    for _ in range(count):
        prompt = beginnings[number(3)][: number(longest)] + [number(VOCABULARY) for _ in range(1 + number(4))]
        requests.append(Request(tuple(prompt), 1 + number(new), adapter=adapters[number(len(adapters))]))
    return requests


def assert_as_generated(model, request, tokens):
    """The tokens are those of `generate` on the request alone, but where the two best logits are as good as equal."""
    prompt = list(request.prompt)
    alone = generate(model, [prompt], request.max_new_tokens, eos_token_id=(), cache="dynamic")[0]
    if tokens == alone:
        return
    assert len(tokens) == len(alone)
    place = next(i for i, pair in enumerate(zip(tokens, alone, strict=True)) if pair[0] != pair[1])
    logits = model(torch.tensor([prompt + alone[:place]])).logits[0, -1]
    assert abs(logits[tokens[place]] - logits[alone[place]]) < TIE
