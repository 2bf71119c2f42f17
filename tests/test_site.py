"""The documentation site: what its builder writes from the code, and what it refuses."""

import importlib.util
import re
from pathlib import Path

import pytest

from em.cli import COMMANDS
from em.config import CONF_DIR

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site():
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs" / "build_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_key_has_its_type_its_value_and_its_docstring(site):
    page = site.keys()
    (row,) = [line for line in page.splitlines() if line.startswith("| `train.max_examples`")]
    assert re.fullmatch(r"\| `train.max_examples` \| int or null \| `160` \| Train on this many rows .* \|", row)
    assert {"## model", "## judge", "## budget", "## At the top"} <= set(page.splitlines())


def test_every_command_and_every_option_is_there(site):
    assert set(COMMANDS) <= {line.split()[2] for line in site.commands().splitlines() if line.startswith("## em ")}
    listed = set(re.findall(r"^\| `([^`]+)`", site.groups(), re.MULTILINE))
    files = {p.relative_to(CONF_DIR).with_suffix("") for p in Path(CONF_DIR).glob("*/**/*.yaml")}
    assert listed == {Path(*p.parts[1:]).as_posix() for p in files}


def test_links_out_of_docs_become_paths_and_a_lost_one_is_an_error(site):
    page = ROOT / "docs" / "contributing" / "judge.md"
    assert site.inside("[a judge](../../conf/judge/gpt_4o.yaml)", page) == "`conf/judge/gpt_4o.yaml`"
    assert site.inside("[`x`](../../conf/judge/gpt_4o.yaml)", page) == "`x`"
    assert (
        site.inside("[data](../data.md#tokens) [w](https://a.b)", page) == "[data](../data.md#tokens) [w](https://a.b)"
    )
    assert site.inside("[data](docs/data.md)", ROOT / "README") == "[data](data.md)"
    with pytest.raises(SystemExit, match="does not exist"):
        site.inside("[gone](../../conf/judge/gone.yaml)", page)


def test_a_page_that_is_not_in_the_navigation_is_an_error(site, tmp_path):
    (tmp_path / "data.md").touch()
    site.check_nav(tmp_path)
    (tmp_path / "lost.md").touch()
    with pytest.raises(SystemExit, match=r"no lost\.md"):
        site.check_nav(tmp_path)
