import torch

from course_lib.models.fingerprint import fingerprint


def test_one_bit_changes_it():
    weights = [torch.arange(6.0).reshape(2, 3), torch.ones(2, dtype=torch.bfloat16)]
    before = fingerprint(weights)
    assert fingerprint(weights) == before
    weights[0][1, 2] = torch.nextafter(weights[0][1, 2], torch.tensor(9.0))
    assert fingerprint(weights) != before


def test_known_digest():
    # sha256 of eight zero bytes, from `printf '\0\0\0\0\0\0\0\0' | sha256sum`
    expected = "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc"
    assert fingerprint([torch.zeros(2)]) == expected
