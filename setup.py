"Build tlcourse from settings.ini, with the lessons inside the package so that a wheel is the whole course."
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

root = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(root/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']


def requirements(key): return [o.strip() for o in cfg[key].splitlines() if o.strip()]


class BuildCourse(build_py):
    "Copy the notebooks and the tested versions to `tlcourse/course`, where an installed `tlcourse` finds them."
    def course(self):
        files = [*(root/'nbs').glob('*.ipynb'), *(root/'nbs').glob('*.png'), *(root/'nbs').glob('*/*.ipynb'), root/'constraints.txt']
        return [f for f in files if '.ipynb_checkpoints' not in f.parts]

    def target(self, f): return Path(self.build_lib)/'tlcourse'/'course'/f.relative_to(root)

    def run(self):
        super().run()
        if self.editable_mode: return
        for f in self.course():
            self.mkpath(str(self.target(f).parent))
            self.copy_file(str(f), str(self.target(f)))

    def get_outputs(self, include_bytecode=True):
        extra = [] if self.editable_mode else [str(self.target(f)) for f in self.course()]
        return super().get_outputs(include_bytecode) + extra


setup(
    version=cfg['version'],
    python_requires=f">={cfg['min_python']}",
    install_requires=requirements('requirements'),
    extras_require={k.removesuffix('_requirements'): requirements(k) for k in cfg if k.endswith('_requirements')},
    packages=['tlcourse'],
    package_data={'tlcourse': ['full/*.tsv']},
    entry_points={'console_scripts': ['tlcourse=tlcourse.cli:main'], 'nbdev': ['tlcourse=tlcourse._modidx:d']},
    cmdclass={'build_py': BuildCourse},
)
