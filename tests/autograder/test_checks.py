"""What the assignments' checks say: what was wrong, with the value, where, and what to do."""

import numpy as np
import pytest

from autograder import checks


def said(check, *arguments, **named):
    """The complaint."""
    with pytest.raises(AssertionError) as caught:
        check(*arguments, **named)
    return str(caught.value)


def refusing(error=None, result=None):
    def call():
        if error is not None:
            raise error
        return result

    return call


class TestResultOf:
    def test_it_is_the_result(self):
        assert checks.result_of(lambda a, b=1: a + b, 2, b=3) == 5

    def test_a_printed_answer(self):
        def answer():
            print(42)

        assert said(checks.result_of, answer) == (
            "answer returned nothing: end it with `return` (print only shows a value)"
        )

    @pytest.mark.parametrize(
        "change",
        [
            lambda lengths: lengths.sort() or lengths,
            lambda lengths: lengths.append(1) or lengths,
            lambda lengths: lengths.__setitem__(0, 9) or lengths,
        ],
    )
    def test_an_argument_that_was_sorted_in_place(self, change):
        message = said(checks.result_of, change, [3, 1, 2])
        assert "changed lengths, which it was given: work on a copy of it (sorted(x) instead of x.sort()" in message

    def test_a_nan_is_no_change(self):
        cache = np.array([1.0, np.nan])
        assert checks.result_of(lambda cache, name: 5, cache, name="x") == 5

        def fill(cache):
            cache[np.isnan(cache)] = 0.0
            return cache

        assert "changed cache" in said(checks.result_of, fill, cache)

    def test_deep_inside_and_in_arrays(self):
        def answer(batch, weight, name="x"):
            batch[0]["ids"].append(0)
            return 1

        assert "changed batch" in said(checks.result_of, answer, [{"ids": [1]}], np.ones(2))

        def scale(batch, weight):
            weight *= 2
            return 1

        assert "changed weight" in said(checks.result_of, scale, [], np.ones(2))
        assert "changed weight" in said(checks.result_of, scale, [], weight=np.ones(2))

    def test_a_method(self):
        class Box:
            def sorted(self, items):
                items.sort()
                return items

        assert "sorted changed items" in said(checks.result_of, Box().sorted, [2, 1])


class TestReturned:
    def test_a_tuple_of_so_many(self):
        assert checks.returned(2, (1, 2)) == (1, 2)

    @pytest.mark.parametrize(
        ("result", "what"),
        [(None, "nothing: end it with `return`"), ((1,), "1 things"), ([1, 2], "a list"), (np.ones(2), "a ndarray")],
    )
    def test_something_else(self, result, what):
        message = said(checks.returned, 2, result)
        assert message.startswith(f"your function returned {what}")
        assert message.endswith("expected a tuple of 2 things")


class TestClose:
    @pytest.mark.parametrize(
        ("got", "expected"), [(1, 1.0), (np.float32(0.5), 0.5), (np.ones(3), [1.0] * 3), (np.array(2.0), 2)]
    )
    def test_equal(self, got, expected):
        checks.check_close("y", got, expected)

    def test_a_rounded_constant_is_told_apart(self):
        """0.2370 beside 0.2370 helps nobody."""
        message = said(checks.check_close, "the percentage", 0.237, 0.236993)
        assert message == "the percentage is 0.237, expected 0.23699"
        message = said(checks.check_close, "x", 0.1 + 0.2, 0.3, 0.0, 0.0)
        assert message == "x is 0.30000000000000004, expected 0.29999999999999999"

    def test_where_an_array_is_off_most(self):
        got = np.zeros((3, 4))
        got[1, 2], got[2, 0] = 0.5, 0.25
        assert said(checks.check_close, "y", got, np.zeros((3, 4))) == (
            "y is off by up to 0.5: 0.5 instead of 0 at [1, 2]"
        )

    @pytest.mark.parametrize(
        ("got", "message"),
        [
            (None, "y is None: does your function `return` it? (print only shows a value)"),
            ([1.0, 1.0], "y is of type list, expected an array"),
            ((1.0, 1.0), "y is of type tuple, expected an array"),
            (np.ones(3), "y has shape (3,), expected (2,)"),
            (np.ones(2, int), "y has the type int64, expected floating-point numbers"),
            (np.array([1.0, np.nan]), "y is not a finite number at [1]: nan"),
            (np.array(["a", "b"]), "y is of type ndarray, expected numbers"),
            (3.0, "y is of type float, expected an array"),
        ],
    )
    def test_not_such_an_array(self, got, message):
        assert said(checks.check_close, "y", got, np.ones(2)) == message

    @pytest.mark.parametrize("got", ["1", True, {}, [1.0], b"1"])
    def test_not_a_number(self, got):
        assert "expected" in said(checks.check_close, "y", got, 1.0)

    def test_several(self):
        checks.check_each(["a", "b"], (np.ones(1), np.zeros(1)), ([1.0], [0.0]))
        assert said(checks.check_each, ["a", "b"], None, ([1.0], [0.0])).startswith("got nothing: end it with `return`")
        assert said(checks.check_each, ["a", "b"], [np.ones(1)] * 2, ([1.0],) * 2).startswith("got a list, expected a")
        assert said(checks.check_each, ["a", "b"], (np.ones(1),), ([1.0],) * 2).startswith("got 1 things, expected a")


class TestSame:
    @pytest.mark.parametrize("value", [None, 1, "x", [1, [2]], {"a": [1]}, ()])
    def test_equal(self, value):
        checks.check_same("it", value, value)

    def test_short_ones_are_shown(self):
        assert said(checks.check_same, "it", [1, 2], [1, 3]) == "it is [1, 2], expected [1, 3]"
        assert said(checks.check_same, "it", (1,), [1]) == "it is of type tuple, expected list"
        assert said(checks.check_same, "it", 3, None) == "it is 3, expected None"
        assert said(checks.check_same, "it", None, 3) == (
            "it: your function returned nothing: end it with `return` (print only shows a value)"
        )

    def test_of_long_ones_the_first_difference(self):
        right = list(range(75))
        wrong = [*right[:40], 0, *right[41:]]
        assert said(checks.check_same, "labels", wrong, right) == "labels differs from [40] on, which is 0, expected 40"
        assert said(checks.check_same, "labels", right[:70], right) == (
            "labels has 70 entries, expected 75; it lacks 70 at the end"
        )
        assert said(checks.check_same, "labels", [*right, 7], right) == (
            "labels has 76 entries, expected 75; it has 7 too much at the end"
        )

    def test_inside_of_dictionaries_lists_and_texts(self):
        ids = list(range(75))
        assert said(checks.check_same, "it", {"ids": ids, "labels": ids}, {"ids": ids, "labels": [*ids[:-1], 0]}) == (
            "it differs at 'labels', which differs from [74] on, which is 74, expected 0"
        )
        assert "has the keys ['ids', 'label'], expected ['ids', 'labels']" in said(
            checks.check_same, "it", {"ids": ids, "label": ids}, {"ids": ids, "labels": ids}
        )
        assert said(checks.check_same, "it", [[1] * 60, [2] * 60], [[1] * 60, [2] * 59 + [3]]).endswith(
            "differs from [1] on, which differs from [59] on, which is 2, expected 3"
        )
        text = "word " * 30
        assert said(checks.check_same, "it", text, text[:80] + "!" + text[81:]) == (
            "it differs from character 80 on: …'word word word word word word word word '…, "
            "expected …'word word word word !ord word word word '…"
        )


class TestArray:
    def test_equal(self):
        checks.check_array("ids", np.array([[1, 2]]), [[1, 2]])
        checks.check_array("mask", np.array([True]), np.array([True]), "b")

    @pytest.mark.parametrize(
        ("got", "message"),
        [
            (None, "ids: your function returned nothing"),
            ([1, 2], "ids is of type list, expected an array"),
            (np.array([1.0, 2.0]), "ids has the type float64, expected integers"),
            (np.array([1]), "ids has shape (1,), expected (2,)"),
            (np.array([1, 3]), "ids is 3 instead of 2 at [1]\n[1 3]\nexpected\n[1 2]"),
        ],
    )
    def test_not_such_an_array(self, got, message):
        assert said(checks.check_array, "ids", got, [1, 2]).startswith(message)

    def test_a_large_one_is_not_printed_whole(self):
        wrong = np.zeros(500, int)
        wrong[77] = 1
        assert said(checks.check_array, "ids", wrong, np.zeros(500, int)) == "ids is 1 instead of 0 at [77]"


class TestRefused:
    def test_a_valueerror_with_the_value(self):
        assert checks.check_refused("rank 9", refusing(ValueError("rank 9 is too high")), "9") == "rank 9 is too high"

    def test_another_exception(self):
        """The student's own text alone does not say that a ValueError was wanted."""
        assert said(checks.check_refused, "rank 9", refusing(IndexError("rank 9 is too high")), "9") == (
            "rank 9 must raise a ValueError, and your code raised IndexError: rank 9 is too high"
        )
        assert said(checks.check_refused, "rank 9", refusing(ZeroDivisionError())).endswith("raised ZeroDivisionError")

    def test_no_exception(self):
        assert said(checks.check_refused, "rank 9", refusing(), "9") == (
            "rank 9 must raise a ValueError, and nothing was raised"
        )
        assert said(checks.check_refused, "rank 9", refusing(result=[1])).endswith(": the result was [1]")

    def test_a_message_without_the_value(self):
        message = said(checks.check_refused, "rank 9", refusing(ValueError("too high")), "9")
        assert message == "rank 9: the message 'too high' of your ValueError does not say '9'"
