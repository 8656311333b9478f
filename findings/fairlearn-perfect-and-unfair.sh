#!/bin/sh
# A classifier without a single error has the worst possible equalised odds, if one group happens to have no positives.
#
# Versions  fairlearn 0.15.0, scikit-learn 1.9.1
# Input     Six people in two groups, predictions equal to the labels; in group b all labels are 0.
# Expected  No difference, nan, or a warning: the recall of a group without positives is 0/0. scikit-learn's recall_score warns.
# Seen      The recall of group b is 0 without a warning, so equalized_odds_difference is 1 and the ratio 0, as for a classifier that is
#           always wrong on b; true_positive_rate_difference likewise.
# Way out   Count the positives of each group first, and leave out groups that have none.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/python" -m pip install --quiet uv
"$here/venv/bin/uv" pip install --quiet --python "$here/venv/bin/python" fairlearn==0.15.0 scikit-learn==1.9.1
cd "$here"
"$here/venv/bin/python" - <<'PY'
import warnings
from fairlearn.metrics import MetricFrame, equalized_odds_difference, equalized_odds_ratio, true_positive_rate, true_positive_rate_difference
from sklearn.metrics import recall_score

y, group = [1, 1, 0, 0, 0, 0], list('aaabbb')
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter('always')
    recall = MetricFrame(metrics=true_positive_rate, y_true=y, y_pred=y, sensitive_features=group).by_group
    difference, ratio = (f(y, y, sensitive_features=group) for f in (equalized_odds_difference, equalized_odds_ratio))
    alone = true_positive_rate_difference(y, y, sensitive_features=group)
    silent = not said
    recall_score([0, 0, 0], [0, 0, 0])
    warned = any('ecall' in str(o.message) for o in said)
print(f'recall by group {dict(recall)}; equalised odds: difference {difference}, ratio {ratio}; silent: {silent}; scikit-learn warns: {warned}')
raise SystemExit(not (recall['b'] == 0 and difference == alone == 1 and ratio == 0 and silent and warned))
PY
