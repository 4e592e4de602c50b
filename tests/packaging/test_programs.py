"""What packages bring along for other languages: pinned archives, a C header's slots, comparisons that can fail."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from dlc.errors import CapabilityError
from dlc.packaging import npm, programs
from dlc.packaging.c_form import library_folder
from dlc.packaging.form import Answer, judge
from dlc.packaging.limits import missing_operator
from dlc.packaging.npm import Pin
from dlc.packaging.options import for_javascript
from dlc.packaging.texts import TEMPLATES
from dlc.packaging.triton_form import parse
from dlc.runtimes.session import SessionConfig

NODE = shutil.which("node")


def test_an_archive_other_than_the_pinned_one_is_not_used(tmp_path: Path) -> None:
    archive = tmp_path / "x.tgz"
    archive.write_bytes(b"content")
    digest = base64.b64encode(hashlib.sha512(b"content").digest()).decode()
    npm.check(archive, Pin("x", f"sha512-{digest}"))
    archive.write_bytes(b"another")
    with pytest.raises(CapabilityError, match="another x"):
        npm.check(archive, Pin("x", f"sha512-{digest}"))


def test_without_npm_a_package_that_is_not_here_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv(npm.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CapabilityError, match="npm is not installed"):
        npm.modules("onnxruntime-web")


def test_a_node_modules_of_another_version_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "onnxruntime-web"
    folder.mkdir()
    monkeypatch.setenv("DLC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv(npm.VARIABLE, str(tmp_path))
    for version, found in ((npm.VERSION, folder), ("1.0.0", None)):
        (folder / "package.json").write_text(json.dumps({"version": version}))
        assert npm.present("onnxruntime-web") == found


@pytest.mark.skipif(not (shutil.which("gcc")), reason="needs gcc")
@pytest.mark.parametrize("slot", ["CreateSession", "AddSessionConfigEntry"])
def test_a_slot_at_another_place_does_not_compile(slot: str, tmp_path: Path) -> None:
    text = (TEMPLATES / "c" / "ort_abi.h").read_text()
    (tmp_path / "x.c").write_text('#include "ort_abi.h"\n')
    for moved, compiles in (
        (text, True),
        (text.replace(f"OrtStatus *(*{slot})", f"void *more; OrtStatus *(*{slot})"), False),
    ):
        (tmp_path / "ort_abi.h").write_text(moved)
        child = subprocess.run(
            ["gcc", "-fsyntax-only", "x.c"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (child.returncode == 0) == compiles
    assert f"{slot} is at another slot" in child.stderr


CONFIGURED = r"""
#include <stdio.h>
#include "ort_abi.h"
int main(void) {
  const OrtApi *api = OrtGetApiBase()->GetApi(ORT_ABI_VERSION);
  OrtSessionOptions *options = NULL;
  OrtStatus *status = api->CreateSessionOptions(&options);
  if (status == NULL) status = api->AddSessionConfigEntry(options, "", "an entry needs a name");
  printf("%s\n", status == NULL ? "accepted" : api->GetErrorMessage(status));
  return 0;
}
"""


@pytest.mark.skipif(not (shutil.which("gcc")), reason="needs gcc")
def test_the_slot_that_takes_session_entries_is_the_one(tmp_path: Path) -> None:
    shutil.copy(TEMPLATES / "c" / "ort_abi.h", tmp_path)
    [library] = library_folder().glob("libonnxruntime.so*")
    (tmp_path / "libonnxruntime.so.1").symlink_to(library)
    (tmp_path / "x.c").write_text(CONFIGURED)
    command = ["gcc", "x.c", "./libonnxruntime.so.1", f"-Wl,-rpath,{tmp_path}", "-o", "x"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    child = subprocess.run([tmp_path / "x"], capture_output=True, text=True, check=True)
    assert "Config key" in child.stdout or "config key" in child.stdout


def compare(got: Any, stated: Any, kind: str = "float32", shape: list[int] | None = None) -> float | None:
    """Compare two tensors as packages for JavaScript do."""
    array = {"float32": "Float32Array", "int64": "BigInt64Array", "float16": "Uint16Array"}[kind]
    dims = json.dumps(shape or [len(stated)])
    code = f"""
import {{ errorOf }} from "{(TEMPLATES / "common" / "golden.mjs").as_uri()}";
const tensor = (values, dims) => ({{ type: "{kind}", dims, data: {array}.from(values) }});
const error = errorOf(tensor({got}, [{len(stated)}]), tensor({stated}, {dims}));
console.log(JSON.stringify(Number.isFinite(error) ? error : null));
"""
    child = subprocess.run([str(NODE), "--input-type=module", "-e", code], capture_output=True, text=True, check=True)
    result: float | None = json.loads(child.stdout)
    return result


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_javascript_compares_as_python_does() -> None:
    assert compare("[1, 2, 4]", [1, 2, 4]) == 0
    assert compare("[1, 2, 3]", [1, 2, 4]) == 0.25
    assert compare("[1, NaN, 4]", [1, 2, 4]) is None
    half = np.array([1, 2, 4], np.float16).view(np.uint16).tolist()
    other = np.array([1, 2, 3], np.float16).view(np.uint16).tolist()
    assert compare(other, half, "float16") == 0.25
    assert compare("[1, 2, 4]", [1, 2, 4], shape=[1, 3]) is None


def answer(**changes: Any) -> Answer:
    plain = {
        "runtime": "x",
        "variant": "int8",
        "bound": 0.1,
        "vectors": 1,
        "errors": {"y": 0.1},
        "load_ms": 1,
        "latency_ms": 1,
    }
    return Answer(**{**plain, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"errors": {"y": 0.0, "z": 0.11}}, "output 'z' differs by 0.11"),
        ({"errors": {"y": None}}, "output 'y' differs by inf"),
        ({"vectors": 0}, "no golden vector"),
        ({"alone": False}, "dlc or torch was loaded"),
        ({"errors": {}}, "no output was compared"),
        ({"variant": "fp32"}, "'fp32' was replayed, not 'int8'"),
    ],
)
def test_what_an_answer_is_worth(changes: dict[str, Any], said: str) -> None:
    proof = judge("x", "int8", answer(**changes))
    assert proof.ok == (not said)
    assert said in proof.detail


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("", ""),
        ("sys.exit(1)", "answers, and then fails: exit 1"),
        ("sys.exit('after all not')", "answers, and then fails: after all not"),
        ("time.sleep(60)", "does not run: did not end within 1 s"),
    ],
)
def test_an_answer_counts_only_if_its_program_ends_well(
    ending: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "SECONDS", 1)
    text = msgspec.json.encode(answer()).decode()
    code = f"import sys, time; print({text!r}, flush=True); {ending}"
    proof = programs.prove("x", "int8", [sys.executable, "-S", "-c", code], tmp_path)
    assert (proof.ok, proof.detail) == (not said, said)


@pytest.mark.parametrize(
    ("text", "operator"),
    [
        ("[NOT_IMPLEMENTED] : Could not find an implementation for MatMul(13) node with name 'a'", "MatMul"),
        ("Fatal error: com.microsoft:QuickGelu(-1) is not a registered function/op", "QuickGelu"),
        ("No Op registered for Foo with domain_version of 20", "Foo"),
        ("the file does not exist", None),
    ],
)
def test_the_operator_that_a_runtime_lacks_is_read_from_its_words(text: str, operator: str | None) -> None:
    assert missing_operator(text) == operator


def test_session_entries_and_disabled_optimisers_reach_javascript() -> None:
    config = SessionConfig(entries={"session.disable_prepacking": "1"}, disabled_optimizers=("A", "B"))
    assert for_javascript(config)["extra"] == {
        "session": {"disable_prepacking": "1"}, "optimization": {"disable_specified_optimizers": "A;B"},
    }  # fmt: skip


def test_triton_s_definitions_know_their_fields_and_no_others() -> None:
    from google.protobuf import text_format

    assert parse('name: "m" backend: "onnxruntime" max_batch_size: 8').max_batch_size == 8
    with pytest.raises(text_format.ParseError, match="max_batch"):
        parse("max_batch: 8")
