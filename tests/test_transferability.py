"Scores of transferability against what they are by definition: joint tables by hand, the Gaussian density, scikit-learn's covariance."
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from sklearn.metrics import mutual_info_score

from tlcourse import TLCourseError
from tlcourse.transferability import h_score, leep, logme, nce

RNG = np.random.default_rng(0)


def labelled(n, d, classes=3, signal=1., offset=0.):
    y = np.arange(n) % classes
    x = RNG.normal(size=(n, d)) + offset
    k = min(d, classes)
    x[:, :k] += signal*np.eye(classes)[y][:, :k]
    return x, y


# LEEP and NCE

def test_leep_by_hand():
    "Two source classes, three items. P(z) = (.5, .5) as sums (1.5, 1.5); P(0|z) = (1.2, .8)/1.5 and P(1|z) = (.3, .7)/1.5."
    p, y = [[.9, .1], [.3, .7], [.3, .7]], [0, 0, 1]
    given = np.array([[1.2, .8], [.3, .7]])/1.5
    want = np.mean(np.log([.9*given[0, 0] + .1*given[0, 1], .3*given[0, 0] + .7*given[0, 1], .3*given[1, 0] + .7*given[1, 1]]))
    assert abs(leep(p, y) - want) < 1e-12


def test_leep_of_certain_sources_is_nce():
    z, y = RNG.integers(0, 7, 60), RNG.integers(0, 3, 60)
    assert abs(leep(np.eye(7)[z], y) - nce(z, y)) < 1e-12


def test_nce_is_minus_the_conditional_entropy():
    z, y = RNG.integers(0, 5, 80), RNG.integers(0, 3, 80)
    p = np.bincount(y)/80
    assert abs(nce(z, y) - (mutual_info_score(z, y) + (p*np.log(p)).sum())) < 1e-12


def test_ends_of_the_scale():
    y = np.arange(30) % 3
    assert abs(nce(y, y)) < 1e-12 and abs(leep(np.eye(3)[y], y)) < 1e-12           # the source knows it all
    assert abs(nce(np.zeros(30), y) + np.log(3)) < 1e-12                            # the source says the same of each
    assert abs(leep(np.full((30, 4), .25), y) + np.log(3)) < 1e-12


def test_source_classes_that_never_occur_do_not_matter():
    p = RNG.dirichlet(np.ones(4), 20)
    assert abs(leep(np.c_[p, np.zeros((20, 3))], np.arange(20) % 2) - leep(p, np.arange(20) % 2)) < 1e-12


# LogME

def largest_density(x, t):
    "By brute force, from several starts."
    def minus(p): return -multivariate_normal.logpdf(t, cov=np.eye(len(t))*np.exp(p[0]) + x@x.T*np.exp(p[1]))
    fits = [minimize(minus, start, method='Nelder-Mead', options=dict(xatol=1e-9, fatol=1e-12, maxiter=9000)).fun
            for start in ((-2, -2), (-1, -6), (-3, -9), (0, -30))]
    return -min(fits)


@pytest.mark.parametrize('n, d, offset', [(40, 6, 0), (40, 39, 0), (30, 30, 0), (40, 60, 0), (40, 512, 0), (40, 6, 5), (25, 60, 2)])
def test_logme_is_the_evidence(n, d, offset):
    x, y = labelled(n, d, offset=offset)
    assert abs(logme(x, y) - np.mean([largest_density(x, (y == c)*1.) for c in range(3)])/n) < 1e-6


@pytest.mark.parametrize('n, d', [(60, 5), (20, 50)])
def test_logme_of_numbers(n, d):
    x = RNG.normal(size=(n, d))
    y = x[:, 0] + .3*RNG.normal(size=n)
    assert abs(logme(x, y) - largest_density(x, y)/n) < 1e-6


def test_logme_by_the_papers_formula_with_the_determinant_whole():
    "In the space of weights: 40 items and 512 features, where the term -(D-k)/2 log(alpha) is worth tens of nats an item."
    x, y = labelled(40, 512)
    t = (y == 0)*1.
    k = x@x.T
    def by_weights(alpha, beta, whole=True):
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        m = vt.T@(beta*s*(u.T@t)/(alpha + beta*s*s))
        logdet = np.log(alpha + beta*s*s).sum() + (512 - 40)*np.log(alpha)*whole
        return (40*np.log(beta) + 512*np.log(alpha) - 40*np.log(2*np.pi) - beta*((x@m - t)**2).sum() - alpha*(m@m) - logdet)/2
    for alpha, beta in ((300., 9.), (2000., 30.)):
        direct = multivariate_normal.logpdf(t, cov=np.eye(40)/beta + k/alpha)
        assert abs(by_weights(alpha, beta) - direct) < 1e-8
        assert by_weights(alpha, beta, whole=False) - direct > 500
    assert logme(x, y) < 0


def test_logme_tells_signal_from_none():
    (x, y), noise = labelled(60, 200, signal=3.), RNG.normal(size=(60, 200))
    assert logme(x, y) > logme(noise, y) + .1


def test_repeated_and_constant_features_are_no_trouble():
    x, y = labelled(30, 4)
    x = np.c_[x, x, np.zeros((30, 2)), np.ones((30, 1))]
    assert abs(logme(x, y) - np.mean([largest_density(x, (y == c)*1.) for c in range(3)])/30) < 1e-6
    assert np.isfinite(h_score(x, y)) and np.isfinite(logme(np.ones((6, 3)), [0, 1]*3))


# H-score

def by_inverse(x, y):
    x = x - x.mean(0)
    lw = LedoitWolf(assume_centered=True).fit(x)
    means = np.stack([x[y == c].mean(0) for c in y])
    return (1 - lw.shrinkage_)*np.trace(np.linalg.inv(lw.covariance_)@means.T@means/len(x))


@pytest.mark.parametrize('n, d', [(200, 10), (40, 40), (30, 100)])
def test_h_score_is_its_definition_with_scikit_learns_covariance(n, d):
    x, y = labelled(n, d, offset=2)
    assert abs(h_score(x, y) - by_inverse(x, y)) < 1e-9


@pytest.mark.parametrize('classes', [2, 5])
def test_noise_has_no_h_score_where_the_plain_one_is_at_its_best(classes):
    x, y = RNG.normal(size=(60, 300)), np.arange(60) % classes
    c = x - x.mean(0)
    means = np.stack([c[y == k].mean(0) for k in y])
    assert abs(np.trace(np.linalg.pinv(c.T@c)@means.T@means) - (classes - 1)) < 1e-6
    assert 0 <= h_score(x, y) < .2*(classes - 1)


def test_h_score_of_many_items_is_the_plain_one():
    x, y = labelled(20_000, 4, signal=2.)
    c = x - x.mean(0)
    means = np.stack([c[y == k].mean(0) for k in range(3)])
    assert abs(h_score(x, y) - np.trace(np.linalg.inv(c.T@c/20_000)@(means.T@means)/3)) < 5e-3


# All

def scores(x, p, y): return np.array([leep(p, y), nce(p.argmax(1), y), logme(x, y), h_score(x, y)])


@pytest.mark.parametrize('n, d', [(50, 8), (30, 70)])
def test_order_does_not_matter(n, d):
    (x, y), p = labelled(n, d), RNG.dirichlet(np.ones(6)*.3, n)
    want, order = scores(x, p, y), RNG.permutation(n)
    assert np.allclose(scores(x[order], p[order], y[order]), want, atol=1e-9)          # of items
    assert np.allclose(scores(x, p, np.array([2, 0, 1])[y]), want, atol=1e-9)          # of classes
    assert np.allclose(scores(x, p, np.array(['cat', 'ant', 'bee'])[y]), want, atol=1e-9)
    assert np.allclose(scores(x[:, ::-1], p[:, RNG.permutation(6)], y), want, atol=1e-9)  # of features and source classes


def test_each_is_a_float():
    (x, y), p = labelled(30, 5), np.full((30, 2), .5)
    assert all(type(o) is float for o in (leep(p, y), nce(y, y), logme(x, y), h_score(x, y), logme(x, y + .5*(y == 0))))


@pytest.mark.parametrize('call, says', [
    (lambda: leep([[.5, .6]]*4, [0, 1]*2), 'sum to 1'), (lambda: leep([[1.5, -.5]]*4, [0, 1]*2), 'below 0'),
    (lambda: leep([[np.nan, 1]]*4, [0, 1]*2), 'not finite'), (lambda: leep([.5, .5], [0, 1]), r'\[items, features\]'),
    (lambda: leep([[.5, .5]]*4, [0, 1]), 'one class an item'), (lambda: leep([[.5, .5]]*3, [0, 1, 2]), 'leave nothing to compare'),
    (lambda: nce([0, 1, 2], [0, 0, 0]), 'of one class'), (lambda: nce([[1, 0]], [0]), 'argmax'), (lambda: nce([], []), ''),
    (lambda: logme([[1., np.nan]]*4, [0, 1]*2), 'not finite'), (lambda: logme(np.zeros((0, 3)), []), r'\[0, 3\]'),
    (lambda: logme(np.eye(3), [0, 1, 2]), 'leave nothing to compare'), (lambda: logme(np.eye(3), [.5, np.nan, 1.]), ''),
    (lambda: h_score([[np.inf]]*4, [0, 1]*2), 'not finite'), (lambda: h_score(np.eye(4), [0, 1, .5, 0]), 'classes'),
    (lambda: h_score(np.eye(4), [0, 0, 0, 0]), 'of one class')])
def test_what_cannot_be_scored_is_one_line(call, says):
    with pytest.raises(ValueError, match=says) as e: call()
    assert isinstance(e.value, TLCourseError) and '\n' not in str(e.value)
