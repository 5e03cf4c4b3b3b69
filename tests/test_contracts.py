"""What others rely on, as text: public names with signatures, weight names, imports at no cost.

After a wanted change run `python -m tests.test_contracts` from the repository and read the diff.
"""

import ast
import json
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_socket import SocketBlockedError

import unix_cxr

CONTRACTS = Path(__file__).parent / "contracts"


def public_names() -> str:
    """Every public name with its signature, from the source: no library's version shows in it."""
    lines = []
    for name, module in sorted(unix_cxr._PUBLIC.items()):
        path = Path(unix_cxr.__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        (node,) = [node for node in tree.body if getattr(node, "name", None) == name]
        lines += described(node)
    return "\n".join(lines) + "\n"


def described(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef):
        return [signature(node)]
    assert isinstance(node, ast.ClassDef)
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    lines = [f"class {node.name}({bases})"]
    for member in node.body:
        if isinstance(member, ast.AnnAssign) and not ast.unparse(member.target).startswith("_"):
            lines.append(f"    {ast.unparse(member)}")
        if isinstance(member, ast.FunctionDef) and (
            not member.name.startswith("_") or member.name in ("__init__", "__call__")
        ):
            lines.append(f"    {signature(member)}")
    return lines


def signature(node: ast.FunctionDef) -> str:
    decorators = "".join(f"@{ast.unparse(x)} " for x in node.decorator_list)
    returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    return f"{decorators}{node.name}({ast.unparse(node.args)}){returns}"


def weight_names() -> str:
    from tests.conftest import make_tiny_model

    state = make_tiny_model().state_dict()
    return "".join(f"{name} {list(value.shape)}\n" for name, value in state.items())


SNAPSHOTS: dict[str, Callable[[], str]] = {
    "public_names.txt": public_names,
    "weight_names.txt": weight_names,
}


def run_python(*arguments: str) -> str:
    finished = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    return finished.stdout


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_contract(name: str) -> None:
    expected = (CONTRACTS / name).read_text(encoding="utf-8")
    assert SNAPSHOTS[name]() == expected, "wanted? then `python -m tests.test_contracts`"


def test_every_public_name_can_be_imported() -> None:
    for name in unix_cxr.__all__:
        assert hasattr(unix_cxr, name), name
    assert set(dir(unix_cxr)) == set(unix_cxr.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'UnixModel'"):
        unix_cxr.UnixModel  # noqa: B018 - asking for it is the test


def test_public_classes_say_where_they_live() -> None:
    """Saved pipelines name these modules: a class that moves breaks them."""
    homes = {
        name: getattr(unix_cxr, name).__module__
        for name in ("UniXConfig", "UniXModel", "UniXProcessor", "JointBlock", "GenerationBranch")
    }
    assert homes == {
        "UniXConfig": "unix_cxr.models.config",
        "UniXModel": "unix_cxr.models.unix",
        "UniXProcessor": "unix_cxr.pipelines.processing",
        "JointBlock": "unix_cxr.modules.joint_block",
        "GenerationBranch": "unix_cxr.models.generation",
    }


LOADED = "import sys, json; {}; print(json.dumps(sorted(sys.modules)))"


def modules_after(statement: str) -> set[str]:
    loaded: set[str] = set(json.loads(run_python("-c", LOADED.format(statement))))
    return loaded


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "diffusers", "numpy", "PIL", "pydantic", "typer"}
    assert not modules_after("import unix_cxr") & heavy


def test_reports_need_no_torch() -> None:
    loaded = modules_after("from unix_cxr import ReportCleaner")
    assert "unix_cxr.reports.cleaner" in loaded
    assert not loaded & {"torch", "transformers", "diffusers"}


def test_importing_the_package_takes_less_than_a_tenth_of_a_second() -> None:
    """Warm median, the start of the interpreter not counted."""
    clock = "import time; t = time.process_time(); import unix_cxr; print(time.process_time() - t)"
    assert statistics.median(float(run_python("-c", clock)) for _ in range(5)) < 0.1


@pytest.mark.parametrize("module", ["unix_cxr.functional.flow", "unix_cxr.modules.joint_block"])
def test_importing_changes_no_global_state(module: str) -> None:
    code = (
        "import torch, random, os; "
        "seen = lambda: (torch.get_rng_state().sum().item(), torch.get_num_threads(), "
        "torch.get_default_dtype(), random.getstate()[1][:3], dict(os.environ)); "
        f"before = seen(); import {module}; assert seen() == before"
    )
    run_python("-c", code)


def test_the_network_is_out_of_reach() -> None:
    with pytest.warns(UserWarning, match="tried to use socket"), pytest.raises(SocketBlockedError):
        socket.create_connection(("127.0.0.1", 9), timeout=1)


def write() -> None:
    CONTRACTS.mkdir(exist_ok=True)
    for name, make in SNAPSHOTS.items():
        (CONTRACTS / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    write()
