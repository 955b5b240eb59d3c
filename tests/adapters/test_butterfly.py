"""Butterfly rotations: worked numbers, orthogonality, what each width mixes, and the layer they make."""

import math

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from course_lib.adapters import (
    ButterflyLinear,
    ButterflyRotation,
    adapted_layers,
    butterfly_layers,
    butterfly_parameter_count,
    inject_butterfly,
    inject_lora,
    merge,
    unmerge,
)
from course_lib.errors import CourseError
from course_lib.models.fingerprint import fingerprint
from course_lib.training import next_token_loss

SHAPES = [
    (8, 3, None),
    (8, 5, None),
    (12, 4, None),
    (12, 3, 4),
    (768, 6, None),
    (768, 8, 256),
    (576, 10, None),
    (7, 3, 7),
]


def random_rotation(width, stages, block_size=None, seed=0):
    torch.manual_seed(seed)
    rotation = ButterflyRotation(width, stages, block_size)
    nn.init.uniform_(rotation.angles, 0.3, 1.2)  # no cosine or sine near zero
    return rotation


def by_loops(rotation, width, stages, block_size):
    """R = R_0 R_1 ... from its definition: one 2 x 2 rotation a pair, pairs found with two loops, in float64."""
    size, angles = block_size or width, iter(rotation.angles.double().tolist())
    product = torch.eye(width, dtype=torch.float64)
    for s in range(stages):
        distance, factor = 2 ** (s % math.ceil(math.log2(size))), torch.eye(width, dtype=torch.float64)
        for i in range(width):
            if (i % size) // distance % 2 == 0 and i % size + distance < size:
                j, angle = i + distance, next(angles)
                factor[i, i] = factor[j, j] = math.cos(angle)
                factor[i, j], factor[j, i] = -math.sin(angle), math.sin(angle)
        product = product @ factor
    assert next(angles, None) is None, "an angle that no pair uses"
    return product


def test_worked_example():
    """Width 4, two stages. 90 degrees in each pair of stage 1, then 90 degrees in (0, 1) and none in (2, 3).

    Stage 1 turns (0, 2) and (1, 3): (1, 2, 3, 4) -> (-3, -4, 1, 2). Stage 0 turns (0, 1): -> (4, -3, 1, 2).
    """
    rotation = ButterflyRotation(4, 2)
    with torch.no_grad():
        rotation.angles.copy_(torch.tensor([math.pi / 2, 0.0, math.pi / 2, math.pi / 2]))
    turned = rotation(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    torch.testing.assert_close(turned, torch.tensor([4.0, -3.0, 1.0, 2.0]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("width", "stages", "block_size"), [shape for shape in SHAPES if shape[0] < 100])
def test_is_the_product_of_its_factors(width, stages, block_size):
    rotation = random_rotation(width, stages, block_size)
    expected = by_loops(rotation, width, stages, block_size)
    torch.testing.assert_close(rotation.matrix().double(), expected, rtol=0, atol=1e-6)
    x = torch.randn(3, 5, width)
    torch.testing.assert_close(rotation(x).double(), x.double() @ expected.T, rtol=0, atol=1e-5)
    torch.testing.assert_close(rotation.inverse(rotation(x)), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("width", "stages", "block_size"), SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_orthogonal_for_any_angles(width, stages, block_size, seed):
    rotation = random_rotation(width, stages, block_size, seed)
    nn.init.normal_(rotation.angles, std=10)
    matrix = rotation.matrix().detach()
    assert (matrix @ matrix.T - torch.eye(width)).abs().max() < 1e-5
    x = torch.randn(16, width)
    torch.testing.assert_close(rotation(x).norm(dim=1), x.norm(dim=1), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("width", "stages", "block_size"), SHAPES)
def test_count_is_the_formula(width, stages, block_size):
    rotation = ButterflyRotation(width, stages, block_size)
    assert rotation.angles.numel() == butterfly_parameter_count(width, stages, block_size)
    assert rotation.angles.numel() == int(rotation.slot.max()) + 1


def test_worked_counts():
    """768: 384 pairs a stage up to distance 128, 256 at distances 256 and 512."""
    assert butterfly_parameter_count(768, 6) == 6 * 384 == 2304
    assert butterfly_parameter_count(768, 8, 256) == butterfly_parameter_count(768, 8) == 3072
    assert butterfly_parameter_count(768, 10) == 8 * 384 + 2 * 256 == 3584
    assert butterfly_parameter_count(768, 11) == 3584 + 384
    assert butterfly_parameter_count(6, 3) == 3 + 2 + 2  # (0,1)(2,3)(4,5); (0,2)(1,3); (0,4)(1,5)


@pytest.mark.parametrize(
    ("width", "passes", "mixed"), [(64, 1, 1), (96, 1, 8 / 9), (96, 2, 1), (7, 1, 44 / 49), (7, 2, 1), (768, 1, 8 / 9)]
)
def test_what_a_pass_over_the_distances_mixes(width, passes, mixed):
    stages = passes * math.ceil(math.log2(width))
    matrix = random_rotation(width, stages).matrix()
    assert (matrix != 0).double().mean().item() == pytest.approx(mixed)


def test_blocks_stay_apart_and_match_the_full_width_below_their_size():
    blockwise = random_rotation(24, 5, 8)
    matrix = blockwise.matrix()
    inside = torch.block_diag(*[torch.ones(8, 8)] * 3).bool()
    assert (matrix[~inside] == 0).all()
    assert (matrix[inside] != 0).all()
    full, blocks = random_rotation(24, 3), random_rotation(24, 3, 8)
    assert torch.equal(full.matrix(), blocks.matrix())


@pytest.mark.parametrize("block_size", [None, 8])
@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_the_layer_starts_as_the_base_and_merges_to_what_it_computes(kind, block_size):
    torch.manual_seed(0)
    base = nn.Linear(24, 40) if kind == "linear" else Conv1D(40, 24)
    layer = ButterflyLinear(base, stages=5, block_size=block_size)
    x = torch.randn(2, 3, 24)
    assert torch.equal(layer(x), base(x))
    nn.init.normal_(layer.rotation.angles)
    merged = layer.merged_weight()
    assert merged.shape == base.weight.shape
    expected = layer(x) - base.bias
    torch.testing.assert_close(x @ (merged.T if kind == "linear" else merged), expected, rtol=1e-5, atol=1e-5)
    rows, turned = (w if kind == "linear" else w.T for w in (base.weight, merged))
    # lengths of the rows and angles between them are kept: the point of turning instead of adding
    torch.testing.assert_close(turned @ turned.T, rows @ rows.T, rtol=1e-5, atol=1e-5)


def test_orthogonal_throughout_training(tiny_gpt2):
    names = inject_butterfly(tiny_gpt2, ["c_attn", "c_proj"], stages=6, block_size=8)
    assert len(names) == 6
    trained = [p for p in tiny_gpt2.parameters() if p.requires_grad]
    rotations = [layer.rotation for _, layer in butterfly_layers(tiny_gpt2)]
    assert {id(p) for p in trained} == {id(rotation.angles) for rotation in rotations}
    before = fingerprint(p for p in tiny_gpt2.parameters() if not p.requires_grad)
    optimizer, losses = torch.optim.AdamW(trained, lr=0.05), []
    tokens = torch.randint(0, 97, (2, 16))
    for _ in range(25):
        loss = next_token_loss(tiny_gpt2(tokens).logits, tokens)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        for rotation in rotations:
            matrix = rotation.matrix().detach()
            assert (matrix @ matrix.T - torch.eye(len(matrix))).abs().max() < 1e-5
    assert losses[-1] < losses[0] - 0.05
    assert fingerprint(p for p in tiny_gpt2.parameters() if not p.requires_grad) == before


def test_gradients_are_those_of_the_definition():
    rotation = random_rotation(6, 4)
    rotation.double()
    x = torch.randn(3, 6, dtype=torch.float64)
    weight = torch.randn(3, 6, dtype=torch.float64)
    (rotation(x) * weight).sum().backward()
    for k in range(rotation.angles.numel()):
        values = []
        for step in (1e-3, -1e-3):
            moved = random_rotation(6, 4)
            with torch.no_grad():
                moved.angles[k] += step
            values.append((x @ by_loops(moved, 6, 4, None).T * weight).sum().item())
        # central difference: error of order step squared, on float32 angles of resolution 1e-7 / 1e-3
        assert rotation.angles.grad[k].item() == pytest.approx((values[0] - values[1]) / 2e-3, abs=2e-3)


def test_bfloat16_base():
    base = nn.Linear(16, 8, dtype=torch.bfloat16)
    layer = ButterflyLinear(base, stages=4)
    x = torch.randn(3, 16, dtype=torch.bfloat16)
    assert torch.equal(layer(x), base(x))
    layer.to(torch.bfloat16)
    nn.init.normal_(layer.rotation.angles)
    matrix = layer.rotation.matrix()
    assert (matrix @ matrix.T - torch.eye(16)).abs().max() < 1e-5
    assert layer(x).dtype == torch.bfloat16


def test_merge_and_unmerge_in_a_model(tiny_gpt2):
    inject_butterfly(tiny_gpt2, ["c_attn", "c_fc"], stages=4)
    for _, layer in butterfly_layers(tiny_gpt2):
        nn.init.normal_(layer.rotation.angles)
    tokens, before = torch.arange(20)[None], fingerprint(tiny_gpt2.parameters())
    logits = tiny_gpt2(tokens).logits
    report = merge(tiny_gpt2)
    assert (report.layers, report.dtype, report.max_error) == (4, "float32", 0.0)
    torch.testing.assert_close(tiny_gpt2(tokens).logits, logits, rtol=1e-5, atol=1e-5)
    unmerge(tiny_gpt2)
    assert fingerprint(tiny_gpt2.parameters()) == before
    assert torch.equal(tiny_gpt2(tokens).logits, logits)


@pytest.mark.parametrize(
    ("stages", "block_size", "message"),
    [
        (0, None, "at least 1 stage, not 0"),
        (3, 7, r"block_size 7 .*h\.0\.attn\.c_attn, .* 24 features"),
        (3, 1, "block_size 1"),
        (3, 48, "block_size 48"),
        (3, 0, "block_size 0"),
    ],
)
def test_impossible_shapes_leave_the_model_alone(tiny_gpt2, stages, block_size, message):
    with pytest.raises(CourseError, match=message):
        inject_butterfly(tiny_gpt2, ["c_attn", "c_proj"], stages, block_size)
    assert not list(adapted_layers(tiny_gpt2))
    assert all(p.requires_grad for p in tiny_gpt2.parameters())


def test_kinds_do_not_mix(tiny_llama, tiny_gpt2):
    inject_butterfly(tiny_llama, ["q_proj"], stages=2)
    with pytest.raises(CourseError, match="already"):
        inject_butterfly(tiny_llama, ["v_proj"], stages=2)
    with pytest.raises(CourseError, match="already"):
        inject_lora(tiny_llama, ["v_proj"])
    inject_lora(tiny_gpt2, ["c_attn"])
    with pytest.raises(CourseError, match="already"):
        inject_butterfly(tiny_gpt2, ["c_attn"], stages=2)
