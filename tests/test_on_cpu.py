# SPDX-License-Identifier: Apache-2.0
"""Scripts written for CUDA, run on the CPU as users run them."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diff_gaussian_rasterization import on_cpu as launcher

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(__file__).parent / "user_scripts"


def on_cpu(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "diff_gaussian_rasterization.on_cpu", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("FAST3DGS_RASTERIZER_RETURNS", None)
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_a_training_of_2024_on_the_packages_alone(tmp_path: Path) -> None:
    end = on_cpu(SCRIPTS / "packages_only.py", tmp_path / "saved.pth", cwd=tmp_path)
    assert end.returncode == 7, end.stderr
    assert end.stdout.startswith("losses ")
    assert end.stderr == ""
    saved = torch.load(tmp_path / "saved.pth", weights_only=True)
    assert saved["xyz"].device.type == "cpu" and saved["xyz"].shape == (60, 3)


def test_a_training_of_2023_with_a_model_of_its_own(small_scene: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    end = on_cpu(
        *(SCRIPTS / "own_model_2023.py", "-s", small_scene, "-m", model, "--iterations", 15),
        *("--eval", "--opacity_penalty", 0.001, "-k"),
        cwd=tmp_path,
    )
    assert end.returncode == 0, end.stderr
    found = json.loads(end.stdout.splitlines()[-1])
    assert found["after"] > found["before"] + 0.5
    assert found["milliseconds"] > 1
    assert found["keep_log"] is True and found["eval"] is True
    assert (model / "point_cloud" / "iteration_15" / "point_cloud.ply").is_file()
    assert json.loads((model / "cameras.json").read_text())


NAMES = """
import json, sys, pickle, copy
from pathlib import Path
import torch
import beside
cuda = torch.cuda
device = torch.device("cuda:1")
assert isinstance(device, torch.device) and device == torch.device("cpu")
assert torch.device("cuda", 0) == torch.device(type="cuda", index=0) == torch.device(0) == device
assert torch.device("meta").type == "meta" and torch.device(device) == device
assert pickle.loads(pickle.dumps(device)) == copy.deepcopy(device) == device
x = torch.ones(3, device=device)
assert x.cuda() is x and x.to("cuda:0") is x and x.to(device=0) is x and x.pin_memory() is x
assert x.to("cuda", torch.float64).dtype == x.to(torch.float64).dtype == torch.float64
assert x.to(torch.zeros(1, dtype=torch.int32)).dtype == torch.int32
assert x.cpu() is not x and x.to("cpu") is not x and x.to("cpu").equal(x)
assert x.type("torch.cuda.DoubleTensor").dtype == torch.float64
assert cuda.FloatTensor([1.0, 2.0]).sum() == 3 and x.new_zeros(2, device="cuda").numel() == 2
for made in (torch.arange(3, device="cuda"), torch.tensor([1], device=device),
             torch.rand_like(x, device="cuda"), torch.empty(2, device="cuda", pin_memory=True),
             torch.as_tensor([1], device="cuda"), torch.fft.fftfreq(4, device="cuda")):
    assert made.device.type == "cpu"
layer = torch.nn.Linear(2, 2, device="cuda").cuda().to("cuda").to(device)
assert next(layer.parameters()).device.type == "cpu"
assert torch.Generator("cuda").device.type == torch.Generator(device="cuda:0").device.type == "cpu"
assert isinstance(torch.Generator(), torch.Generator)
torch.set_default_device("cuda")
assert torch.zeros(1).device.type == "cpu"
torch.set_default_device(None)
with cuda.device(0), cuda.stream(cuda.Stream()), torch.device("cuda"):
    cuda.current_stream().synchronize()
cuda.synchronize(); cuda.ipc_collect(); cuda.reset_peak_memory_stats(); cuda.nvtx.range_push("a")
assert cuda.memory_allocated() == cuda.max_memory_allocated() == cuda.memory_reserved() == 0
assert not cuda.is_available() and cuda.device_count() == 0
assert cuda.get_device_properties(0).total_memory > 0 and cuda.mem_get_info()[1] > 0
cuda.set_rng_state_all(cuda.get_rng_state_all())

@torch.jit.script
def scripted(a: torch.Tensor) -> torch.Tensor:
    return a + torch.ones(3, device="cuda")

assert scripted(x).sum() == 6
print(json.dumps([sys.argv, sys.path[0], __name__, __file__, beside.VALUE]))
raise KeyError("the script's own error")
"""


def test_every_name_and_the_surroundings_of_a_script(tmp_path: Path) -> None:
    folder = tmp_path / "with blank é"
    folder.mkdir()
    (folder / "beside.py").write_text("VALUE = 5\n")
    (tmp_path / "beside.py").write_text("VALUE = 'of the working directory'\n")
    (folder / "names.py").write_text(NAMES)
    script = "with blank é/names.py"
    end = on_cpu(script, "--flag", "a b", cwd=tmp_path)
    assert end.returncode == 1
    assert 'KeyError: "the script\'s own error"' in end.stderr.splitlines()[-1]
    argv, path, name, file, value = json.loads(end.stdout)
    assert argv == [script, "--flag", "a b"]
    assert (path, name, file, value) == (str(folder.resolve()), "__main__", script, 5)


def test_a_gpu_is_named_and_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Card X")
    monkeypatch.setattr(launcher, "map_cuda_to_cpu", lambda: done.append("mapped"))
    monkeypatch.setattr(runpy, "run_path", lambda path, run_name: done.append((path, run_name)))
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "path", [*sys.path])
    script = tmp_path / "script.py"
    script.touch()
    assert launcher.main([str(script), "-x"]) == 0
    assert done == ["mapped", (str(script), "__main__")]
    assert sys.argv == [str(script), "-x"] and sys.path[0] == str(tmp_path.resolve())
    found = capsys.readouterr().err
    assert found.startswith(f"note: this machine has a GPU, Card X, but {script} runs on the CPU")


def test_what_cannot_be_started(capsys: pytest.CaptureFixture[str]) -> None:
    assert launcher.main(["missing.py"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no script missing.py; usage: ")
    assert launcher.main([]) == 2
    assert launcher.main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: python -m diff_gaussian_rasterization.on_cpu")
