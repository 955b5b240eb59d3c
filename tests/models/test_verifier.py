"""Verifier: scores alone and in batches, what it reads of long pairs, its files, and what is refused."""

import json
import shutil

import pytest
import torch
from tiny_runs import model_folders, tokenizer  # noqa: F401

from course_lib.errors import CourseError
from course_lib.models.config import DecoderConfig
from course_lib.models.decoder import Decoder
from course_lib.models.huggingface import load_decoder, save_decoder
from course_lib.models.pretrained import load_model
from course_lib.models.verifier import Verifier
from course_lib.models.verifier_networks import VerifierConfig, standing_elsewhere
from course_lib.scratch import BPETokenizer

PAIRS = [("Which lamp?", "The third."), ("2 + 3", "5"), ("Which lamp is lit on the left of the door?", "None")]


def shaken(verifier):
    """The head starts at zero, which would make every test of scores one of 0.5."""
    torch.manual_seed(1)
    for parameter in verifier.network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return verifier


@pytest.fixture
def encoder():
    return shaken(Verifier.encoder(BPETokenizer(), hidden_size=16, num_hidden_layers=1, max_length=64))


@pytest.fixture
def decoder():
    config = DecoderConfig("llama", 256, 16, 2, 2, 64, 32)
    return shaken(Verifier.from_decoder(Decoder(config), BPETokenizer(), max_length=64))


@pytest.fixture
def tokens():
    config = DecoderConfig("llama", 256, 16, 2, 2, 64, 32)
    return shaken(Verifier.from_decoder(Decoder(config), BPETokenizer(), max_length=64, head="tokens"))


@pytest.fixture(params=["encoder", "decoder", "tokens"])
def verifier(request):
    return request.getfixturevalue(request.param)


def test_a_new_verifier_says_one_half():
    assert Verifier.encoder(BPETokenizer(), hidden_size=16).score("Which lamp?", "The third.") == 0.5


def test_a_pair_has_the_same_score_alone_and_in_a_padded_batch(verifier):
    together = verifier.score_batch(PAIRS)
    alone = [verifier.score(*pair) for pair in PAIRS]
    assert together == pytest.approx(alone, abs=1e-6)
    assert len(set(together)) == 3
    assert all(0 < each < 1 for each in together)
    assert verifier.score_batch(PAIRS, batch_size=1) == pytest.approx(alone, abs=1e-6)
    assert verifier.score_batch([]) == []


def test_the_score_depends_on_problem_and_answer(verifier):
    assert verifier.score("2 + 3", "5") != verifier.score("2 + 4", "5")
    assert verifier.score("2 + 3", "5") != verifier.score("2 + 3", "6")


def test_the_encoder_tells_a_problem_from_an_answer(encoder):
    assert encoder.encode("ab", "cd")["part_ids"] == [0, 0, 0, 1, 1]  # the line break belongs to the problem
    swapped = encoder.collate([encoder.encode("ab", "cd")])
    whole = encoder.network(**swapped)
    other = encoder.network(**swapped | {"part_ids": 1 - swapped["part_ids"]})
    assert not torch.allclose(whole, other)


def test_a_new_token_head_goes_by_the_least_likely_token_of_the_answer():
    torch.manual_seed(0)
    model = Decoder(DecoderConfig("llama", 256, 16, 2, 2, 64, 32)).eval()
    verifier = Verifier.from_decoder(model, BPETokenizer(), head="tokens")
    ids = list(b"2 + 3\n5!")
    log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    gaps = [log_probs[place - 1, ids[place]] - log_probs[place - 1].max() for place in (6, 7)]  # of "5" and "!"
    assert verifier.logits([("2 + 3", "5!")]).item() == pytest.approx(2 + min(gaps).item(), abs=1e-5)
    batch = verifier.collate([verifier.encode("2 + 3", "5!")])
    mean = verifier.network.judge_and_log_probs(**batch)[1]
    assert mean.item() == pytest.approx((log_probs[5, ids[6]] + log_probs[6, ids[7]]).item() / 2, abs=1e-5)


def test_a_token_head_sees_what_stands_in_the_problem(tokens):
    batch = tokens.collate([tokens.encode("ab", "bcc")])
    rows, columns = torch.zeros(3, dtype=torch.long), torch.tensor([2, 3, 4])
    marks = standing_elsewhere(**batch, rows=rows, columns=columns)
    assert [mark.tolist() for mark in marks] == [[1, 0, 0], [0, 0, 1]]


def test_the_judgement_sends_no_gradient_into_the_blocks(tokens):
    batch = tokens.collate([tokens.encode(*PAIRS[0]), tokens.encode(*PAIRS[1])])
    logits, log_probs = tokens.network.judge_and_log_probs(**batch)
    logits.sum().backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in tokens.network.decoder.parameters())
    assert all(parameter.grad is not None for parameter in tokens.network.judge.parameters())
    log_probs.sum().backward()
    assert all(parameter.grad is not None for parameter in tokens.network.decoder.parameters())


def test_of_a_long_pair_the_beginning_is_left_out(encoder):
    example = encoder.encode("x" * 100, "the answer")
    assert len(example["input_ids"]) == 64
    assert bytes(example["input_ids"][-10:]) == b"the answer"
    assert sum(example["part_ids"]) == 10
    assert 0 < encoder.score("x" * 100, "y" * 100) < 1


def test_a_temperature_moves_scores_towards_one_half_and_keeps_their_order(verifier):
    plain, warm = verifier.score_batch(PAIRS), verifier.with_temperature(3.0).score_batch(PAIRS)
    assert all(abs(w - 0.5) < abs(p - 0.5) for w, p in zip(warm, plain, strict=True))
    assert sorted(range(3), key=plain.__getitem__) == sorted(range(3), key=warm.__getitem__)


# --- on disk ---


def test_what_is_saved_scores_the_same(verifier, tmp_path):
    verifier = verifier.with_temperature(1.7)
    folder = verifier.save(tmp_path / "verifier")
    again = Verifier.load(folder)
    assert again.score_batch(PAIRS) == verifier.score_batch(PAIRS)
    assert again.config == verifier.config
    settings = json.loads((folder / "config.json").read_text())
    assert (settings["model_type"], settings["tokenizer"]) == ("course_verifier", "bpe_tokenizer.json")
    assert sorted(path.name for path in folder.iterdir()) == ["bpe_tokenizer.json", "config.json", "model.safetensors"]


def test_a_verifier_that_was_saved_without_a_head_reads_the_last_state(decoder, tmp_path):
    folder = decoder.save(tmp_path / "verifier")
    settings = json.loads((folder / "config.json").read_text())
    del settings["head"]
    (folder / "config.json").write_text(json.dumps(settings))
    again = Verifier.load(folder)
    assert again.config.head == "last"
    assert again.score_batch(PAIRS) == decoder.score_batch(PAIRS)


def test_a_tokenizer_of_transformers_lies_beside_it(model_folders, tokenizer, tmp_path):  # noqa: F811
    verifier = shaken(Verifier.from_decoder(load_decoder(model_folders / "llama"), tokenizer))
    assert verifier.config.template == "instruction"  # the tokenizer has no chat template
    again = Verifier.load(verifier.save(tmp_path / "verifier"))
    assert again.score_batch(PAIRS) == pytest.approx(verifier.score_batch(PAIRS), abs=1e-9)


def test_a_verifier_without_a_tokenizer_that_reads_is_refused(model_folders, tokenizer, tmp_path):  # noqa: F811
    folder = Verifier.from_decoder(load_decoder(model_folders / "llama"), tokenizer).save(tmp_path / "verifier")
    file = folder / "tokenizer" / "tokenizer.json"
    saved = json.loads(file.read_text())
    saved["model"] |= {"vocab": {}, "merges": []}
    saved["added_tokens"] = []
    file.write_text(json.dumps(saved))
    with pytest.raises(CourseError, match="no tokenizer that can be read"):
        Verifier.load(folder)
    shutil.rmtree(file.parent)
    with pytest.raises(CourseError, match="lacks its tokenizer"):
        Verifier.load(folder)


def test_nothing_is_written_over_unasked(encoder, tmp_path):
    encoder.save(tmp_path)
    with pytest.raises(CourseError, match="holds a model already"):
        encoder.save(tmp_path)
    encoder.save(tmp_path, overwrite=True)


def test_a_model_of_another_kind_is_refused_in_a_sentence(encoder, model_folders, tmp_path):  # noqa: F811
    with pytest.raises(CourseError, match="model of type 'llama' and no verifier"):
        Verifier.load(model_folders / "llama")
    with pytest.raises(CourseError, match="There is no verifier"):
        Verifier.load(tmp_path / "none")
    for name, said in {"adapter_config.json": "holds an adapter", "state.json": "holds a checkpoint"}.items():
        folder = tmp_path / name.removesuffix(".json")
        folder.mkdir()
        (folder / name).write_text("{}")
        with pytest.raises(CourseError, match=said):
            Verifier.load(folder)


def test_a_verifier_is_no_language_model(encoder, tmp_path):
    folder = encoder.save(tmp_path / "verifier")
    for load in (load_decoder, load_model):
        with pytest.raises(CourseError, match="holds a verifier, which judges answers and writes none"):
            load(folder)


def test_damaged_files_are_refused(encoder, tmp_path):
    folder = encoder.save(tmp_path / "verifier")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 2}))
    with pytest.raises(CourseError, match="does not fit its own config.json"):
        Verifier.load(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "course_verifier"}))
    with pytest.raises(CourseError, match="does not describe a verifier"):
        Verifier.load(folder)
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CourseError, match="damaged"):
        Verifier.load(folder)


# --- what is refused ---


@pytest.mark.parametrize(("problem", "answer", "said"), [("", "5", "problem is empty"), ("2 + 3", " \n", "answer is")])
def test_empty_text_is_refused(verifier, problem, answer, said):
    with pytest.raises(CourseError, match=said):
        verifier.score(problem, answer)
    with pytest.raises(CourseError, match=said):
        verifier.score_batch([("2 + 3", "5"), (problem, answer)])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "critic"}, "kind='critic'"),
        ({"template": "none"}, "template='none'"),
        ({"head": "first"}, "head='first'"),
        ({"head": "tokens"}, "head='tokens' with kind='encoder'"),
        ({"kind": "decoder"}, "needs the decoder's fields"),
        ({"max_length": 1}, "at least 2 tokens"),
        ({"temperature": 0.0}, "above 0"),
        ({"dropout": 1.0}, "probability"),
        ({"hidden_size": 10}, "multiple of the 4 heads"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    ],
)
def test_settings_that_are_not_possible_are_refused(settings, said):
    with pytest.raises(CourseError, match=said):
        VerifierConfig(256, **settings)


def test_a_tokenizer_with_more_ids_is_refused():
    model = Decoder(DecoderConfig("llama", 200, 16, 1, 2, 64, 32))
    with pytest.raises(CourseError, match="256 ids, and the verifier knows 200"):
        Verifier.from_decoder(model, BPETokenizer())


def test_the_decoder_that_was_saved_before_becomes_a_verifier(tmp_path, tokenizer):  # noqa: F811
    torch.manual_seed(0)
    model = Decoder(DecoderConfig("llama", len(tokenizer), 16, 1, 2, 64, 32))
    save_decoder(model, tmp_path, tokenizer)
    verifier = Verifier.from_decoder(load_decoder(tmp_path), tokenizer)
    assert verifier.score("Which lamp?", "The third.") == 0.5
