"""The engine's kernels: one plain shared library, without a tie to any Python version. All else is in pyproject.toml.

Its digest of the sources lets `drivefoundry_car.engine` notice that they have changed since: then
`pip install -e car` builds it anew.
"""

import hashlib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

ENGINE = "src/drivefoundry_car/engine"
SOURCES = [f"{ENGINE}/kernels.cpp", f"{ENGINE}/forward.h"]
# No contraction of a * b + c: results must not hang on whether a CPU has fused multiply-add.
FLAGS = ["-std=c++17", "-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden", "-pthread", "-Wall", "-Wno-psabi"]


class BuildKernels(build_ext):
    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except (CompileError, LinkError) as e:
            raise SystemExit(
                f"drivefoundry-car: its engine did not build ({e}); a C++17 compiler is needed, g++ 11 or newer "
                "(Debian: apt install g++; Fedora: dnf install gcc-c++)"
            ) from None

    def get_ext_filename(self, fullname):
        return f"{fullname.replace('.', '/')}.so"


class AnyPython(bdist_wheel):
    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


def source_digest() -> str:
    here = Path(__file__).parent
    return hashlib.sha256(b"".join((here / name).read_bytes() for name in SOURCES)).hexdigest()


kernels = Extension(
    "drivefoundry_car.engine._kernels",
    SOURCES[:1],
    depends=SOURCES,
    language="c++",
    define_macros=[("ENGINE_SOURCE", f'"{source_digest()}"')],
    extra_compile_args=FLAGS,
    extra_link_args=["-pthread", "-s"],
)

setup(ext_modules=[kernels], cmdclass={"build_ext": BuildKernels, "bdist_wheel": AnyPython})
