"""Do the pinned versions resolve, from wheels alone, on every system that we name? Part of `make constraints`; needs the package index.

    python tools/platforms.py
"""
import configparser, os, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SYSTEMS = {'Linux x86-64': 'x86_64-unknown-linux-gnu', 'Linux aarch64': 'aarch64-unknown-linux-gnu',
           'Windows x86-64': 'x86_64-pc-windows-msvc', 'macOS 14 Apple silicon': 'aarch64-apple-darwin'}
NOT = {'macOS Intel': 'x86_64-apple-darwin'}  # no PyTorch wheel: the day it resolves, README and `doctor` say something untrue
PYTHONS = '3.11', '3.12', '3.13', '3.14'
ONLY_TESTS = 'dev'  # seqeval, for one, comes as source


def extras():
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    return [k.removesuffix('_requirements') for k in ini['DEFAULT'] if k.endswith('_requirements')]


def resolve(target, python):
    "What stands in the way of an install, in uv's words; nothing if it resolves."
    cmd = ['uv', 'pip', 'compile', '--quiet', '--python-platform', target, '--python-version', python, '--only-binary', ':all:', '-c',
           'constraints.txt', 'setup.py', '-o', os.devnull, *[o for e in extras() if e != ONLY_TESTS for o in ('--extra', e)]]
    done = subprocess.run(cmd, cwd=ROOT, capture_output=True, text=True, env={**os.environ, 'MACOSX_DEPLOYMENT_TARGET': '14.0'})
    return '' if done.returncode == 0 else done.stderr.strip() or 'uv failed without a word'


if __name__ == '__main__':
    wrong = 0
    for name, target in {**SYSTEMS, **NOT}.items():
        for python in PYTHONS:
            said = resolve(target, python)
            good = bool(said) == (name in NOT)
            wrong += not good
            print(f"{name}, Python {python}: {'does not resolve' if said else 'resolves'}{'' if good else ', unlike what we say'}", flush=True)
            if said and not good: print(said)
    sys.exit(wrong > 0)
