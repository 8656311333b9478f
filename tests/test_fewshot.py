"Few labels: episodes without leakage, prototypes and whitening against closed forms, and one line for what is wrong."
import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from tlcourse import TLCourseError
from tlcourse.episodes import episodes, judge, split_classes
from tlcourse.fewshot import Prototypes, Whiten, choose, embed, refine, zero_shot
from tlcourse.glyphs import icons

RNG = np.random.default_rng(0)
Y = np.repeat(np.arange(12), 10)
X = 2*RNG.normal(size=(12, 5))[Y] + RNG.normal(size=(120, 5))
HAND = np.arange(120) % 5


def test_no_item_is_support_and_query():
    for e in episodes((X, Y), 6, 3, 4, n=50):
        assert not set(e.support) & set(e.query) and len(set(e.support)) == 18 and len(set(e.query)) == 24
        assert (Y[e.support] == e.classes[e.y]).all() and (Y[e.query] == e.classes[e.y_query]).all()
        assert (X[e.support] == e.x).all() and (X[e.query] == e.x_query).all() and len(set(e.classes)) == 6


def test_groups_are_kept_apart():
    asked = set()
    for e in episodes((X, Y), 5, 2, 2, n=60, groups=HAND):
        assert len(set(HAND[e.query])) == 1 and not set(HAND[e.query]) & set(HAND[e.support])
        asked |= set(HAND[e.query])
    assert asked == set(range(5))


def test_ask_and_show():
    ask, show = HAND < 2, HAND > 2
    for e in episodes((X, Y), 5, 2, 2, n=20, ask=ask, show=show): assert ask[e.query].all() and show[e.support].all()


def test_same_seed_same_episodes():
    a, b, c = ([e.query.tolist() for e in episodes((X, Y), n=5, seed=s)] for s in (1, 1, 2))
    assert a == b != c


def test_classes_are_split():
    base, new = split_classes(Y, .25)
    assert not set(Y[base]) & set(Y[new]) and len(set(Y[base])) == 3 and (base ^ new).all()


def test_judge_by_hand():
    tasks = list(episodes((X, Y), 4, 1, 3, n=40))
    first = judge(lambda x, y, q: np.zeros(len(q), int), tasks)
    assert abs(first.mean - .25) < 1e-12 and first.over_episodes.low == first.over_episodes.high == .25
    known = {tuple(q): c for q,c in zip(X, Y)}
    assert first.by_class.between(0, 1).all() and judge(lambda x, y, q: np.array([[known[tuple(a)] == known[tuple(x[y == k][0])] for k in range(4)] for a in q]), tasks).mean == 1


def test_prototypes_are_nearest_centroids():
    labels = np.array(list('abcdefghijkl'))[Y]
    ours, theirs = Prototypes().fit(X, labels), NearestCentroid().fit(X, labels)
    assert np.allclose(ours.means_, theirs.centroids_) and (ours.predict(X) == theirs.predict(X)).all()


def test_squared_distance_is_linear_and_plain_is_its_root():
    p, q = Prototypes().fit(X, Y), Prototypes('plain').fit(X, Y)
    d = ((X[:, None] - p.means_)**2).sum(-1)
    assert np.allclose(-p.decision_function(X), d) and np.allclose(-q.decision_function(X), np.sqrt(d))
    z = np.exp(2*X @ p.means_.T - (p.means_**2).sum(1))
    assert np.allclose(z/z.sum(1, keepdims=True), p.predict_proba(X))


def test_temperature_and_cosine():
    hot, cold = (Prototypes(temperature=t).fit(X, Y).predict_proba(X).max(1) for t in (10, 1))
    assert (hot < cold).all()
    a, b = Prototypes('cosine').fit(X, Y), Prototypes('cosine').fit(X, Y)
    assert np.allclose(a.decision_function(X), b.decision_function(7*X))  # length does not matter


def test_whitened_scatter_is_the_identity_and_gives_mahalanobis():
    w = Whiten(shrink=0).fit(X, Y)
    r = X - np.stack([X[Y == c].mean(0) for c in range(12)])[Y]
    s = r.T @ r/(120 - 12)
    z, d = w.transform(X), X[0] - X[1]
    assert np.isclose(((z[0] - z[1])**2).sum(), d @ np.linalg.inv(s) @ d)


def test_refine_pulls_the_means():
    x, y = np.array([[0., 0], [4, 0]]), np.array([0, 1])
    q = np.r_[RNG.normal([1.5, 0], .3, (30, 2)), RNG.normal([7, 0], .3, (30, 2))]
    right = np.repeat([0, 1], 30)
    assert (refine(x, y, q) == right).mean() >= (Prototypes().fit(x, y).predict(q) == right).mean() and (refine(x, y, q) == right).all()


@pytest.mark.parametrize('how', ['kmeans', 'coreset', 'random'])
def test_choose(how):
    i = choose(X, 12, how)
    assert len(set(i)) == len(i) <= 12 and max(i) < 120 and (choose(X, 12, how) == i).all()


def test_core_set_takes_the_farthest():
    x = np.r_[np.zeros((9, 2)), [[5, 5]]]
    assert 9 in choose(x, 2, 'coreset')


def test_zero_shot():
    said = zero_shot(['The striker scored twice and the team won the cup.', 'The bank raised its interest rate.'], {'sport': ['football', 'tennis'], 'money': 'banks and finance'})
    assert said.columns.tolist() == ['sport', 'money'] and said.idxmax(axis=1).tolist() == ['sport', 'money']
    z = embed(['one text', 'another text'])
    assert np.allclose(np.linalg.norm(z, axis=1), 1) and np.allclose(zero_shot(z, ['a', 'b'], prior=z).mean(), 0, atol=1e-9)


def test_icons():
    some = icons(4, px=32)
    assert {o.font for o in some} == {'material', 'phosphor', 'remix', 'awesome'} and all(o.pixels.shape == (32, 32) and o.pixels.min() < 100 < o.pixels.max() for o in some)


@pytest.mark.parametrize('wrong, says', [
    (lambda: list(episodes((X, Y), n_way=13)), 'fewer ways'), (lambda: list(episodes((X, Y), n_way=1)), '2 ways'), (lambda: list(episodes((X, Y[:5]))), 'one class an item'),
    (lambda: list(episodes((np.full_like(X, np.nan), Y))), 'finite'), (lambda: list(episodes((X, Y), groups=HAND[:3])), 'one value for each'), (lambda: episodes(X), 'labels'),
    (lambda: judge(lambda *o: 0, []), 'no episodes'), (lambda: split_classes(np.zeros(4)), 'empty'), (lambda: Prototypes('manhattan'), 'distance'),
    (lambda: Prototypes(temperature=0), 'above 0'), (lambda: Whiten(2), 'from 0 to 1'), (lambda: Whiten().fit(X[:3], [0, 1, 2]), 'two items'), (lambda: choose(X, 0), '1 to 120'),
    (lambda: choose(X, 3, 'best'), 'kmeans'), (lambda: embed(['a', '']), 'empty'), (lambda: zero_shot(['a text'], ['one']), 'two classes'),
    (lambda: icons(5), 'four fonts'), (lambda: icons(px=2), '8 pixels'), (lambda: icons(px=8, n=0), '1 to 206'), (lambda: icons(px=8, n=207), '206 names')])
def test_one_line_for_what_is_wrong(wrong, says):
    with pytest.raises(ValueError, match=says) as e: wrong()
    assert isinstance(e.value, TLCourseError) and '\n' not in str(e.value)
