"Runs of words against brute force, and one line for what is wrong."
import numpy as np
import pytest

from tlcourse import TLCourseError
from tlcourse.contamination import ContaminationError, ngrams, overlap


def slow(text, train, n):
    "By strings in strings, for texts of single letters."
    w = text.split()
    runs = {' '.join(w[i:i+n]) for i in range(len(w) - n + 1)}
    return np.mean([any(r in o for o in train) for r in sorted(runs)]) if runs else np.nan


@pytest.mark.parametrize('n', [1, 2, 5])
def test_overlap_is_what_brute_force_finds(n):
    rng = np.random.default_rng(n)
    texts = [' '.join(rng.choice(list('abcd'), rng.integers(1, 14))) for _ in range(60)]
    share, where = overlap(texts[:30], iter(texts[30:]), n)
    np.testing.assert_allclose(share, [slow(o, texts[30:], n) for o in texts[:30]])
    for text, s, k in zip(texts, share, where):
        each = [len(ngrams(text, n) & ngrams(o, n)) for o in texts[30:]]
        assert (k == -1) == (not s > 0) and (k == -1 or each[k] == max(each))


def test_case_and_marks_do_not_count_and_letters_of_all_languages_do():
    share, where = overlap(['Šport, Gospodarstvo... POLITIKA!'], ['x', 'o šport gospodarstvo politika in'], 3)
    assert share.tolist() == [1.] and where.tolist() == [1]


def test_nothing_to_compare():
    share, where = overlap(['a b', ''], [], 3)
    assert np.isnan(share).all() and where.tolist() == [-1, -1]
    assert overlap([], ['a'])[0].shape == (0,)


@pytest.mark.parametrize('bad', [dict(test='text', train=[]), dict(test=['a'], train='text'), dict(test=[None], train=[]), dict(test=['a'], train=[3]),
                                 dict(test=['a'], train=[], n=0), dict(test=['a'], train=[], n=2.), dict(test=['a'], train=[], n=True)])
def test_overlap_says_what_is_wrong_in_one_line(bad):
    with pytest.raises(ContaminationError) as e: overlap(**bad)
    assert '\n' not in str(e.value) and isinstance(e.value, (TLCourseError, ValueError))
