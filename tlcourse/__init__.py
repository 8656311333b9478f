"A Jupyter-first course and package on transfer learning."
from tlcourse.threads import share

share()
del share


def __getattr__(name):
    if name == '__version__':
        from importlib.metadata import version
        return version('tlcourse')
    if name == 'TLCourseError':
        from tlcourse.core import TLCourseError
        return TLCourseError
    raise AttributeError(f"module 'tlcourse' has no attribute {name!r}")
