# SPDX-License-Identifier: Apache-2.0
"""benchmarks/paper_table.py on the sample scene, laid out as the published data sets are."""

import importlib
import re
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import paper_table
from benchmarks.paper_figures import PUBLISHED, Measured, mean_figures, table_text
from full_evaluation import steps
from full_evaluation.scenes import SCENES
from utils.errors import InputError

PAGE = Path(__file__).parents[1].parent / "shared" / "design" / "fast-3dgs.md"
QUICK = (
    "--train_options=--save_iterations 4 --checkpoint_iterations 100",
    "--compress_options=--max_rounds 1 --warmup_iterations 1 --finetune_iterations 1 "
    "--final_iterations 1 --max_psnr_drop 50",
)


@pytest.mark.skipif(not PAGE.exists(), reason="no ../shared/design/fast-3dgs.md")
def test_the_published_figures_are_those_of_the_page() -> None:
    found = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in PUBLISHED:
            found[cells[0]] = (*map(float, cells[1:]), None)
    assert found == PUBLISHED
    assert set(PUBLISHED) == {name for scenes in SCENES.values() for name in scenes}


@pytest.fixture
def data(small_scene: Path, tmp_path: Path) -> Path:
    """Two scenes of two data sets, each with the folder of photographs that it is trained on."""
    for data_set, scene in (("mipnerf360", "bonsai"), ("deepblending", "playroom")):
        folder = tmp_path / data_set / scene
        shutil.copytree(small_scene, folder)
        images = SCENES[data_set][scene]
        if images != "images":
            (folder / "images").rename(folder / images)
    return tmp_path


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Scripts run in this process, which saves their start; their names, in order."""
    names: list[str] = []

    def run_here(script: str, *arguments: str | Path) -> None:
        names.append(script.removesuffix(".py"))
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        stdout = sys.stdout  # --quiet replaces it
        importlib.import_module(names[-1]).main()
        sys.stdout = stdout

    monkeypatch.setattr(steps, "run_script", run_here)
    return names


def test_scenes_are_measured_beside_the_published_figures(
    data: Path, ran: list[str], command_line, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [f"--{name}={data / name}" for name in ("mipnerf360", "deepblending")]
    words = [*folders, f"--out={data / 'out'}", "--iterations=4", *QUICK]
    command_line(*words)
    paper_table.main()
    said = capsys.readouterr().out
    assert f"garden: {data / 'mipnerf360' / 'garden'} is not there, skipped\n" in said
    assert "truck: --tanksandtemples is not given, skipped\n" in said
    one = ["compress", "render", "metrics"]
    assert ran == 2 * ["train", *one, *one]
    table = (data / "out" / "paper_table.txt").read_text()
    assert said.endswith(table)
    rows = [re.split(r"  +", line.strip()) for line in table.splitlines()]
    names = [row[0] for row in rows]
    assert names.count("fast3dgs") == names.count("balanced") == 5  # scenes, their sets, all
    assert rows[1][:4] == ["bonsai", "published", "32.14", "0.939"]
    measured, difference = rows[2][1:], rows[3][1:]
    assert float(difference[0]) == pytest.approx(float(measured[0]) - 32.14, abs=0.011)
    assert int(measured[3].replace(",", "")) < 300 and float(measured[4].replace(",", "")) > 0
    assert 0 < float(measured[5]) < 0.1
    assert "all, mean of 2" in table and re.search(r"^FPS: .*\d threads$", table, re.M)
    # Again: nothing is left to do, and the table is the same.
    ran.clear()
    command_line(*words)
    paper_table.main()
    assert ran == []
    assert (data / "out" / "paper_table.txt").read_text() == table


def test_given_models_are_compressed_and_a_failure_ends_its_scene_only(
    data: Path, ran: list[str], command_line, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = data / "mipnerf360" / "bonsai"
    steps.run_script(
        *("train.py", "-s", scene, "-m", data / "models" / "bonsai", "-i", "images_2", "--eval"),
        *("--iterations", "3", "--test_iterations", "-1", "--quiet", "--disable_viewer"),
    )
    (data / "models" / "playroom").mkdir()  # without a model
    command_line(
        *(f"--mipnerf360={data / 'mipnerf360'}", f"--deepblending={data / 'deepblending'}"),
        *(
            f"--models={data / 'models'}",
            f"--out={data / 'out'}",
            "--presets",
            "fast3dgs",
            QUICK[1],
        ),
    )
    with pytest.raises(SystemExit) as ended:
        paper_table.main()
    assert ended.value.code == 1
    streams = capsys.readouterr()
    assert "error: playroom: " in streams.err
    assert "1 of 2 scenes failed: playroom" in streams.err
    assert ran == ["train", "compress", "render", "metrics"]
    assert "bonsai" in (data / "out" / "paper_table.txt").read_text()


def test_no_scene_is_there(tmp_path: Path, command_line) -> None:
    command_line("--mipnerf360", tmp_path)
    with pytest.raises(InputError, match="none of the scenes is there"):
        paper_table.main()


def test_means_are_of_the_same_scenes() -> None:
    figures = {
        "train": (20.0, None, 0.5, 10, 1.0, 2.0, 3.0),
        "truck": (30.0, 1.0, 0.7, 20, 3.0, 4.0, 5.0),
    }
    measured = [Measured("tanksandtemples", name, "fast3dgs", f) for name, f in figures.items()]
    assert mean_figures(figures.values()) == pytest.approx((25.0, None, 0.6, 15, 2.0, 3.0, 4.0))
    lines = table_text(measured).splitlines()
    published, difference = lines[7].split(), lines[9].split()
    assert published[:5] == ["tanksandtemples,", "mean", "of", "2", "published"]
    assert float(published[5]) == pytest.approx(23.415, abs=0.006)
    assert difference[0] == "difference" and difference[2] == "-" and difference[1][0] == "+"
    assert float(difference[1]) == pytest.approx(25 - 23.415, abs=0.006)
