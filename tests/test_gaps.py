"Distances between domains: against plain formulas and other implementations, with the right null, and one line for what cannot be measured."
import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import kstest
from sklearn.linear_model import Ridge

from tlcourse import gaps as G
from tlcourse.gaps import AdaptationError, domain_gap, frechet, mmd, uncovered


def draw(n, m, d=4, shift=0., seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)) + shift


@pytest.mark.parametrize('n,m', [(5, 5), (12, 7)])
def test_mmd_is_the_sum_over_pairs(n, m):
    a, b = draw(n, m, shift=1)
    k = lambda x, y: np.exp(-((x - y)**2).sum()/(2*1.5**2))
    within = lambda z: np.mean([k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j])
    want = within(a) + within(b) - 2*np.mean([k(x, y) for x in a for y in b])
    assert abs(mmd(a, b, 1.5) - want) < 1e-12
    assert abs(mmd(a[::-1], np.random.default_rng(0).permutation(b), 1.5) - want) < 1e-12 and abs(mmd(b, a, 1.5) - want) < 1e-12


def test_the_unbiased_estimate_is_zero_on_average_and_the_other_is_not():
    "A well-known library's estimate of a batch against itself is about -.4."
    both = np.array([[mmd(*draw(10, 10, seed=s), unbiased=u) for u in (True, False)] for s in range(400)])
    assert abs(both[:, 0].mean()) < 3*both[:, 0].std()/20 and both[:, 0].min() < 0 < both[:, 1].min() and both[:, 1].mean() > .05
    a, _ = draw(10, 10)
    assert abs(mmd(a, a, unbiased=False)) < 1e-12


def test_frechet_is_that_of_the_matrix_root():
    for n,m,d in ((50, 60, 5), (8, 9, 30)):  # fewer items than columns too
        a, b = draw(n, m, d, 1.)
        b = b*2
        root = sqrtm(np.cov(a.T) @ np.cov(b.T) + 0j)
        want = ((a.mean(0) - b.mean(0))**2).sum() + np.trace(np.cov(a.T)) + np.trace(np.cov(b.T)) - 2*np.trace(root).real
        assert abs(frechet(a, b)/want - 1) < 2e-3


def test_uncovered_can_be_counted():
    assert uncovered([[0], [1], [2], [10]], [[1.5], [30], [40]], k=1) == .5
    a, b = draw(40, 30)
    assert uncovered(a, a[:30] + 1e-9) < .2 and uncovered(a, b + 100) == 1


def test_a_distance_is_that_of_a_classifier_that_is_fit_anew_for_each_fold():
    z = np.concatenate(draw(25, 25, 6, .5))
    y, c = np.r_[np.ones(25), -np.ones(25)], z - z.mean(0)
    wrong = 0
    for f in G._folds(50, 3):
        r = np.setdiff1d(np.arange(50), f)
        wrong += (np.sign(Ridge(alpha=(c**2).sum()/50*1e-2, fit_intercept=False).fit(c[r], y[r]).predict(c[f])) != y[f]).sum()
    assert abs(domain_gap(z[:25], z[25:], permutations=0, seed=3).value['proxy A-distance'] - 2*(1 - 2*wrong/50)) < 1e-9


def test_p_values_are_uniform_without_a_difference_and_small_with_one():
    p = np.array([domain_gap(*draw(15, 15, 3, seed=s), permutations=39, k=3).p for s in range(60)])
    for i,name in enumerate(domain_gap(*draw(15, 15), permutations=1).index):
        assert (p[:, i] <= .1).mean() < .25 and p[:, i].mean() > .35, name
    assert kstest(p[:, 1], 'uniform').pvalue > .001
    t = domain_gap(*draw(60, 60, 3, 1.), permutations=99)
    assert (t.p[['proxy A-distance', 'MMD', 'Fréchet']] == .01).all() and t.p['not covered'] < .1


def test_seed_decides_and_the_values_are_those_of_the_functions():
    a, b = draw(30, 40, 5, .5)
    t = domain_gap(a, b, permutations=20)
    assert t.equals(domain_gap(a, b, permutations=20)) and not t.equals(domain_gap(a, b, permutations=20, seed=1))
    want = [mmd(a, b), frechet(a, b), uncovered(a, b)]
    assert np.allclose(t.value[['MMD', 'Fréchet', 'not covered']], want)
    assert domain_gap(a, b, permutations=0).p.isna().all()


def fails(f, *words):
    with pytest.raises(AdaptationError) as e: f()
    assert '\n' not in str(e.value) and all(w in str(e.value) for w in words), str(e.value)


def test_what_cannot_be_measured():
    a, b = draw(20, 20)
    bad = b.copy(); bad[3, 1] = np.nan
    for f in (domain_gap, mmd, frechet, uncovered):
        fails(lambda: f(a, None), 'x_t is missing')
        fails(lambda: f(a, bad), 'x_t', '1 of 20 rows')
        fails(lambda: f(a[:, 0], b), 'x_s has shape')
        fails(lambda: f(a, b[:, :2]), '4 columns and x_t 2')
        fails(lambda: f(a, b[:0]), 'x_t has 0 items')
    fails(lambda: domain_gap(a, a), 'same items')
    fails(lambda: domain_gap(a[:4], b), 'x_s has 4 items', '6 or more')
    fails(lambda: domain_gap(np.ones((9, 2)), np.ones((9, 2))*1.0000000000000002), 'same features')
