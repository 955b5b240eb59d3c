"""A preference run by the Trainer: its first loss, its references, its cache, and the guard that ends it."""

import copy
import math

import pytest
import torch

from course_lib.adapters import inject_lora
from course_lib.alignment.guard import DivergenceGuard
from course_lib.alignment.objective import PreferenceObjective, evaluate_preferences
from course_lib.alignment.pairs import Pairs, collate_pairs
from course_lib.alignment.reference import AdapterOff, Cached, FrozenCopy, cache_reference
from course_lib.errors import CourseError
from course_lib.training import Trainer, TrainingConfig


def pairs(count=8):
    generator = torch.Generator().manual_seed(3)

    def ids(low, high):
        size = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(3, 97, (size,), generator=generator).tolist()

    found = [{"prompt": ids(3, 9), "chosen": ids(1, 6), "rejected": ids(1, 6)} for _ in range(count)]
    for pair in found:
        pair["input_ids"] = [*pair["prompt"], *pair["chosen"], *pair["rejected"]]
    return Pairs(found, [str(number) for number in range(count)])


@pytest.fixture
def policy(tiny_llama):
    torch.manual_seed(0)
    tiny_llama.requires_grad_(False)
    inject_lora(tiny_llama, ["q_proj", "v_proj"], rank=4, lora_dropout=0.5)
    return tiny_llama


def batches(data, passes=1, size=4):
    return [collate_pairs(data.pairs, range(i, i + size), 0) for i in range(0, len(data.pairs), size)] * passes


def train(model, objective, data, lr=1e-2, passes=10):
    config = TrainingConfig(lr=lr, schedule="constant")
    return Trainer(model, config, objective=objective, log_every=0).train(batches(data, passes))


def test_the_first_loss_is_ln_2_and_later_ones_fall(policy):
    records = train(policy, PreferenceObjective(AdapterOff(), beta=1.0), pairs(), passes=25)
    assert records[0].loss == pytest.approx(math.log(2), abs=1e-6)
    assert records[0].metrics == {"chosen": 0.0, "rejected": 0.0, "margins": 0.0, "accuracies": 0.0}
    assert records[-1].loss < 0.5
    assert records[-1].metrics["accuracies"] == 1.0
    assert "margins" in records[-1].line()


def test_the_three_references_train_the_same_run(policy, tmp_path):
    """Dropout draws nothing in the reference pass, so that all three see one sequence of random numbers."""
    found = []
    for kind in ("off", "copy", "cached"):
        model, data = copy.deepcopy(policy), pairs()
        references = {"off": AdapterOff, "copy": lambda model=model: FrozenCopy(model), "cached": Cached}
        if kind == "cached":
            assert cache_reference(model, data, tmp_path / "reference.safetensors") is False
        torch.manual_seed(1)
        found.append([record.loss for record in train(model, PreferenceObjective(references[kind]()), data)])
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)


def test_the_mean_is_over_pairs_however_they_are_shared_out(policy):
    """Steps of 4 + 4 pairs and of 8 give one loss: TRL averages the means of its micro-batches instead."""
    data, found = pairs(7), []
    for sizes in ([7], [4, 3], [1, 6]):
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        parts = [
            collate_pairs(data.pairs, range(start, start + size), 0) for start, size in zip(starts, sizes, strict=True)
        ]
        model = copy.deepcopy(policy).eval()
        for name, parameter in model.named_parameters():
            if ".B" in name:
                parameter.data.fill_(0.05)
        config = TrainingConfig(lr=1e-9, grad_accum_steps=len(sizes))
        trainer = Trainer(model, config, objective=PreferenceObjective(AdapterOff(), beta=2.0), log_every=0)
        model.eval()
        found.append(trainer.step(0, 1, parts).loss)
    assert found[1:] == pytest.approx([found[0]] * 2, rel=1e-6)


def test_all_weights_can_be_trained_with_a_frozen_copy(tiny_llama):
    records = train(tiny_llama, PreferenceObjective(FrozenCopy(tiny_llama)), pairs(), lr=1e-3)
    assert records[0].loss == pytest.approx(math.log(2), abs=1e-6)
    assert records[-1].loss < 0.6


def test_without_an_adapter_there_is_nothing_to_switch_off(tiny_llama):
    with pytest.raises(CourseError, match="no adapter to switch off"):
        train(tiny_llama, PreferenceObjective(AdapterOff()), pairs())


@pytest.mark.parametrize("loss_type", ["ipo", "hinge", "simpo"])
def test_the_other_losses_train(policy, loss_type):
    reference = None if loss_type == "simpo" else AdapterOff()
    objective = PreferenceObjective(reference, beta=1.0, loss_type=loss_type)
    records = train(policy, objective, pairs())
    assert records[-1].loss < 0.9 * records[0].loss


def test_held_out_values_do_not_depend_on_the_batch_size(policy):
    for name, parameter in policy.named_parameters():
        if ".B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    policy.train()
    objective = PreferenceObjective(AdapterOff())
    one, other = (evaluate_preferences(policy, objective, pairs().pairs, size) for size in (8, 3))
    assert one == pytest.approx(other, rel=1e-5)
    assert policy.training
    with pytest.raises(CourseError, match="no pair"):
        evaluate_preferences(policy, objective, [])


# --- the cache ---


def test_a_cache_is_used_again_and_a_stale_one_is_refused(policy, tmp_path):
    path, data = tmp_path / "reference.safetensors", pairs()
    cache_reference(policy, data, path, "a template")
    written, values = path.stat().st_mtime_ns, [pair["reference"] for pair in data.pairs]
    again = pairs()
    for name, parameter in policy.named_parameters():  # the adapter may have moved: a resumed run has it so
        if ".B" in name:
            parameter.data.fill_(0.3)
    assert cache_reference(policy, again, path, "a template") is True
    assert [pair["reference"] for pair in again.pairs] == values
    assert path.stat().st_mtime_ns == written

    with pytest.raises(CourseError, match="stale.*the pairs have changed"):
        cache_reference(policy, pairs(5), path, "a template")
    with pytest.raises(CourseError, match="stale.*the template has changed"):
        cache_reference(policy, pairs(), path, "another template")
    policy.model.norm.weight.data += 1e-6
    with pytest.raises(CourseError, match="stale.*the model's weights have changed"):
        cache_reference(policy, pairs(), path, "a template")
    path.write_bytes(b"nonsense")
    with pytest.raises(CourseError, match="delete it"):
        cache_reference(policy, pairs(), path, "a template")


def test_pairs_without_cached_values_are_refused(policy):
    with pytest.raises(CourseError, match="cache_reference"):
        train(policy, PreferenceObjective(Cached()), pairs())


# --- the guard ---


def test_a_collapse_while_the_margin_grows_stops_the_run():
    guard = DivergenceGuard(collapse=-1.0, window=3)
    for step in range(5):
        guard.watch(0.5, margin=float(step), chosen_ratio=-2.0)
    with pytest.raises(CourseError, match="7.39 times less likely.*raise beta"):
        guard.watch(0.5, margin=5.0, chosen_ratio=-2.0)


@pytest.mark.parametrize(("margin", "ratio"), [(lambda step: step, -0.5), (lambda step: -step, -2.0)])
def test_a_healthy_run_goes_on(margin, ratio):
    """The chosen responses hold, or the margin falls by itself, which the loss sees."""
    guard = DivergenceGuard(collapse=-1.0, window=3)
    for step in range(20):
        guard.watch(0.5, float(margin(step)), ratio)


def test_a_run_that_collapses_ends_before_the_weights_change(policy):
    """A reference that found the chosen responses all but certain stands for a policy that has forgotten them."""

    class Certain:
        def log_probs(self, model, batch):
            zero = torch.zeros(len(batch["labels"]))
            return zero, zero

    objective = PreferenceObjective(Certain(), guard=DivergenceGuard(window=2))
    with pytest.raises(CourseError, match="The run diverges"):
        train(policy, objective, pairs())
    assert all(torch.isfinite(p).all() for p in policy.parameters())


@pytest.mark.parametrize(("who", "said"), [("policy", "the policy's"), ("reference", "already the reference's")])
def test_a_loss_that_is_no_number_says_whose_it_is(policy, who, said):
    class Broken:
        def log_probs(self, model, batch):
            return tuple(torch.full((len(batch["labels"]),), math.nan) for _ in range(2))

    if who == "policy":
        reference = FrozenCopy(policy)
        next(p for p in policy.parameters() if p.requires_grad).data.fill_(math.nan)
    objective = PreferenceObjective(reference if who == "policy" else Broken(), guard=DivergenceGuard())
    with pytest.raises(CourseError, match=f"{said}.*not finite"):
        train(policy, objective, pairs())


def test_a_guard_that_cannot_work_is_refused():
    with pytest.raises(CourseError, match="collapse=0"):
        DivergenceGuard(collapse=0.0)


def test_a_frozen_copy_shares_what_is_not_trained(tiny_llama):
    inject_lora(tiny_llama, ["q_proj"], rank=2)
    copied = dict(FrozenCopy(tiny_llama).model.named_parameters())
    for name, parameter in tiny_llama.named_parameters():
        same = copied[name].data_ptr() == parameter.data_ptr()
        assert same != parameter.requires_grad, name
        assert torch.equal(copied[name], parameter)
        assert not copied[name].requires_grad
    assert sum(p.requires_grad for p in tiny_llama.parameters()) == 4  # A and B of two layers: the policy still learns
