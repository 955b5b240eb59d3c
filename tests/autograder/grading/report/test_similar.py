"""`course grades similar`: other names, numbers and layout are the same answer; what the release gives is nobody's."""

from attacks.mini import HONEST

from autograder.grading.report.similar import similar_pairs
from course_lib.cli import main

RENAMED = (
    "def scaled(numbers, by):  # my own\n"
    "    if by == 0:\n        raise ValueError(f'factor {by} given')\n\n"
    "    return numbers * by\n"
)
OTHER = (
    "def scaled(values, factor):\n    result = np.zeros_like(values)\n    for place, value in enumerate(values):\n"
    "        result[place] = value * factor\n    assert factor, factor\n    return result\n"
)
THIRD = (
    "def scaled(values, factor):\n    return np.multiply(values, factor) if factor else ValueError(factor, values, 3)\n"
)


class TestSimilar:
    def pairs(self, answers, given="raise NotImplementedError", least=0.5):
        written = {student: {"scaled": source} for student, source in answers.items()}
        found = similar_pairs(written, {"scaled": given}, least)
        return [(pair.one, pair.other, round(pair.share, 2), pair.parts) for pair in found]

    def test_other_names_numbers_and_layout_are_the_same(self):
        found = self.pairs({"ann": HONEST["scaled"], "bob": RENAMED, "carl": OTHER, "dora": THIRD})
        assert found == [("ann", "bob", 1.0, ("scaled",))]

    def test_what_the_release_gives_does_not_count(self):
        given = HONEST["scaled"]
        assert self.pairs({"ann": given, "bob": given, "carl": given + OTHER}, given) == []

    def test_what_much_of_the_class_wrote_counts_little(self):
        many = {f"s{number}": HONEST["scaled"] for number in range(8)}
        both = {"ann": HONEST["scaled"] + OTHER, "bob": HONEST["scaled"] + THIRD}
        shares = {(one, other): share for one, other, share, _ in self.pairs(many | both, least=0.0)}
        assert shares["ann", "bob"] < 0.15
        pair = {"ann": HONEST["scaled"] + OTHER, "bob": HONEST["scaled"] + THIRD}
        assert self.pairs(pair, least=0.0)[0][2] > shares["ann", "bob"]

    def test_text_that_is_not_python(self):
        words = "this is, in my own words, 'an answer with an open quote and many more words"
        found = self.pairs({"ann": words, "bob": words.upper(), "carl": "\x00" * 10, "dora": ""})
        assert found[0][:3] == ("ann", "bob", 1.0)


def test_similar_from_the_command_line(tmp_path, capsys):
    from submissions import filled, put

    for student in ("ann", "bob"):
        put(filled("kv_cache", ["min-p", "top-p"]), tmp_path / f"submitted/{student}/kv_cache/kv_cache.ipynb")
    put(filled("kv_cache", []), tmp_path / "submitted/carl/kv_cache/kv_cache.ipynb")
    assert main(["grades", "similar", "kv_cache", "--course", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert " 100%  ann  bob  the same in " in said
    assert "1 pairs of 3 submissions" in said
