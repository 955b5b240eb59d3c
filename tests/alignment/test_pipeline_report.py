"""The report: a page that needs no other file, curves, and attention maps that are the model's own."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
import torch

from course_lib.alignment.pipeline.page import Code, Page, Picture, Table, Text
from course_lib.alignment.pipeline.pictures import attention_weights, calibration, match_bars, stage_curves
from course_lib.models.config import CONFIGS
from course_lib.models.decoder import Decoder
from course_lib.training.log import StepRecord, TrainingLog


@pytest.fixture
def page():
    page = Page("Models & <tags>")
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><circle r="3"/></svg>'
    page.add("One", Text("a < b"), Table(["model", "x"], [["SFT|DPO", "1"]]), Picture("dot", svg, 'a "dot"'))
    page.add("Two", Code("First 1 + 2 = 3.\n#### 3 <end>"))
    return page


class TestPage:
    def test_the_html_needs_no_other_file(self, page, tmp_path):
        page.write(tmp_path)
        text = (tmp_path / "report.html").read_text()
        sources = re.findall(r'(?:src|href)="([^"]*)"', text)
        assert len(sources) == 1
        assert sources[0].startswith("data:image/svg+xml;base64,")
        assert "http" not in text.replace("data:image", "")
        assert "<script" not in text

    def test_what_models_wrote_is_no_markup(self, page):
        text = page.html()
        assert "#### 3 &lt;end&gt;" in text
        assert "Models &amp; &lt;tags&gt;" in text
        assert 'alt="a &quot;dot&quot;"' in text

    def test_the_markdown_has_the_same_sections_and_its_pictures(self, page, tmp_path):
        page.write(tmp_path)
        text = (tmp_path / "report.md").read_text()
        assert re.findall(r"^## (.*)$", text, re.M) == ["One", "Two"]
        assert "| SFT\\|DPO | 1 |" in text
        (name,) = re.findall(r"!\[a \"dot\"\]\((.*)\)", text)
        assert (tmp_path / name).read_text().startswith("<svg")
        assert "    #### 3 <end>" in text


class TestPictures:
    def test_a_stage_has_three_panels(self, tmp_path):
        log = TrainingLog(0, tmp_path / "log.jsonl")
        log.start(0)
        for step in range(20):
            evaluated = 2.0 - step / 20 if step % 5 == 4 else None
            log.add(StepRecord(step, 2.5 - step / 10, 1e-3, 1.0, 0.1, 64, evaluated), step == 19)
        picture = stage_curves("x", "SFT", tmp_path, [{"step": 10, "exact_match": 0.2, "problems": 5}])
        assert picture.alt == "SFT: training loss from 2.50 to 0.60, exact match at the end 20%"
        ET.fromstring(picture.svg)
        assert picture.svg == stage_curves("x", "SFT", tmp_path, [{"step": 10, "exact_match": 0.2, "problems": 5}]).svg
        assert stage_curves("x", "SFT", tmp_path / "absent", []) is None

    def test_bars_and_calibration_are_drawn(self):
        rows = [{"model": "Base", "exact_match": 0.0, "exact_match_low": 1e-18, "exact_match_high": 0.1}]
        assert "Base 0.0%" in match_bars(rows).alt
        bins = [{"count": 3, "score": 0.2, "right": 0.3}, {"count": 0, "score": 0.0, "right": 0.0}]
        ET.fromstring(calibration(bins).svg)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attention_maps_are_the_models_own(kv_heads):
    """With the weights, the values give what the attention's output layer is given."""
    torch.manual_seed(0)
    config = replace(CONFIGS["tiny-llama"], num_key_value_heads=kv_heads)
    model, ids = Decoder(config).eval(), [5, 17, 3, 99, 42, 7]
    for parameter in model.parameters():  # weights of 0.02 attend to everything alike
        parameter.data *= 8
    weights = attention_weights(model, ids)
    assert weights.shape == (config.num_hidden_layers, config.num_attention_heads, 6, 6)
    assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-6)
    assert weights.triu(1).abs().max() == 0
    assert (weights[..., -1, :].max(-1).values > 0.3).any()
    caught = {}
    attention = model.model.layers[1].self_attn
    attention.v_proj.register_forward_hook(lambda _m, _i, output: caught.__setitem__("v", output))
    attention.o_proj.register_forward_hook(lambda _m, inputs, _o: caught.__setitem__("mixed", inputs[0]))
    with torch.no_grad():
        model(torch.tensor([ids]))
    values = caught["v"].unflatten(-1, (-1, config.head_dim)).transpose(1, 2)  # (1, K, T, D)
    values = values.repeat_interleave(config.num_attention_heads // kv_heads, dim=1)[0]
    mixed = (weights[1] @ values).transpose(0, 1).flatten(1)  # (T, H * D)
    assert torch.allclose(mixed, caught["mixed"][0], atol=1e-4)
