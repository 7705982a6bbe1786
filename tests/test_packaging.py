"""What is built is what is in the repository, and it minds no namesake."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parent.parent
LINKED = ("pretext", "contrastive", "eval", "configs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, source = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source") / "ssl-toolkit"
    # Built from a copy: the working tree's own build folder may hold files that are long gone.
    ignored = shutil.ignore_patterns(".*", "build", "dist", "data", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, symlinks=True, ignore=lambda at, names: ignored(at, names) if at == str(ROOT) else ())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


def test_links_are_relative() -> None:
    for name in LINKED:
        link = ROOT / "ssl_toolkit" / name
        assert link.is_symlink()
        assert str(link.readlink()) == f"../{name}"


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    core = {path.parent for path in (ROOT / "ssl_toolkit").rglob("__init__.py")}  # links are not followed
    packages = {".".join(path.relative_to(ROOT).parts) for path in core}
    for name in LINKED:
        rooms = {path.parent for path in (ROOT / name).rglob("__init__.py")}
        packages |= {".".join(("ssl_toolkit", *path.relative_to(ROOT).parts)) for path in rooms}
    assert set(listed) == packages


def test_wheel_holds_every_source_file(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("ssl_toolkit", *LINKED):
        prefix = "" if folder == "ssl_toolkit" else "ssl_toolkit/"
        for path in (ROOT / folder).rglob("*"):
            wanted = path.suffix in (".py", ".yaml", ".html", ".typed") and "__pycache__" not in path.parts
            if wanted:
                assert f"{prefix}{path.relative_to(ROOT)}" in held
    assert {name.split("/")[0] for name in held} == {
        "ssl_toolkit",
        next(n for n in held if "dist-info" in n).split("/")[0],
    }


def test_wheel_works_beside_a_hostile_eval(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    for name in LINKED:
        (tmp_path / "here" / f"{name}.py").write_text("raise RuntimeError('imported a namesake')")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(tmp_path / "site")]
    subprocess.run([*command, str(wheel)], check=True, timeout=120)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); sys.path.insert(0, '')\n"
        "import ssl_toolkit.contrastive.losses, ssl_toolkit.pretext.rotation, ssl_toolkit.configs, ssl_toolkit.eval\n"
        "print(ssl_toolkit.eval.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path / "here", timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(str(tmp_path / "site"))
    done = subprocess.run(
        [tmp_path / "site" / "bin" / "ssl-toolkit", "methods"], capture_output=True, text=True, timeout=120,
        cwd=tmp_path / "here", env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "simclr" in done.stdout


WARNS = "import warnings\n\ndef pytest_runtest_setup(item):\n    warnings.warn('of a plug-in', UserWarning)\n"
TESTS = """
import warnings

def test_other_code_may_warn():
    exec(compile("import warnings; warnings.warn('x')", "theirs.py", "exec"), {"__name__": "other"})

def test_ours_may_not():
    exec(compile("import warnings; warnings.warn('x')", "ours.py", "exec"), {"__name__": "ssl_toolkit.optim"})
"""


def test_only_our_own_warnings_are_errors(tmp_path: Path) -> None:
    """A plug-in that warns within pytest itself would end the run if its warnings were errors."""
    (tmp_path / "warning_plugin.py").write_text(WARNS)
    (tmp_path / "test_of_warnings.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    command += ["-o", "addopts=", "-p", "warning_plugin", "-p", "no:cacheprovider", "test_of_warnings.py"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=100)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "FAILED test_of_warnings.py::test_ours_may_not" in done.stdout
