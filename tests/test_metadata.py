"""What a package index, a citation and a conda package say about the project, which setup.cfg states."""

from __future__ import annotations

import importlib.util
import re
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import ww_callbacks as ww

ROOT = Path(__file__).parents[1]
RELATIVE_LINK = re.compile(r"\]\((?!https?://|#)")


@pytest.fixture(scope="module")
def stated() -> ConfigParser:
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    return settings


@pytest.fixture(scope="module")
def setup_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loaded(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def lines(settings: ConfigParser, section: str, name: str) -> list[str]:
    return settings.get(section, name).strip().splitlines()


def test_citation_changes_and_recipe_are_of_the_version_in_setup_cfg(stated: ConfigParser) -> None:
    version = stated.get("metadata", "version")
    latest = re.search(r"^## \[(.*?)\]", text("CHANGELOG.md"), re.MULTILINE)
    assert latest is not None
    assert latest[1] == version
    assert loaded("CITATION.cff")["version"] == version
    assert loaded("conda.recipe/recipe.yaml")["context"]["version"] == version


def test_the_version_of_the_package_is_that_which_is_installed() -> None:
    assert ww.__version__ == metadata.version("ww_callbacks")


def test_the_recipe_has_the_requirements_command_and_summary_of_setup_cfg(stated: ConfigParser) -> None:
    recipe = loaded("conda.recipe/recipe.yaml")
    python = stated.get("options", "python_requires")
    required = [f"python{python}", *lines(stated, "options", "install_requires")]
    assert [line.replace(" ", "") for line in recipe["requirements"]["run"]] == required
    assert recipe["build"]["python"]["entry_points"] == lines(stated, "options.entry_points", "console_scripts")
    assert recipe["about"]["summary"] == stated.get("metadata", "description")
    assert recipe["about"]["license"] == stated.get("metadata", "license_expression")


def test_the_oldest_python_is_the_first_of_the_classifiers(stated: ConfigParser) -> None:
    classifiers = lines(stated, "metadata", "classifiers")
    versions = [line.rpartition(" :: ")[2] for line in classifiers if re.search(r"Python :: 3\.\d+$", line)]
    assert stated.get("options", "python_requires") == f">={versions[0]}"


@pytest.mark.parametrize("source", ["", "https://example.org/ww"])
def test_an_index_shows_no_link_that_leads_nowhere(setup_script: ModuleType, source: str) -> None:
    shown = setup_script.for_index(text("README.md"), source)
    assert not RELATIVE_LINK.search(shown)
    assert "[WeightWatcher](https://github.com/CalculatedContent/WeightWatcher)" in shown
    assert ("https://example.org/ww/blob/HEAD/docs/see_a_run.md" in shown) == bool(source)
    assert ("https://example.org/ww/raw/HEAD/docs/images/page.gif" in shown) == bool(source)
    assert "| Tasks | " in shown


def test_the_address_of_the_repository_is_that_in_project_urls(setup_script: ModuleType) -> None:
    settings = ConfigParser()
    settings.read_string(
        "[metadata]\nproject_urls =\n    Documentation = https://example.org/docs\n"
        "    Source = https://example.org/ww/\n"
    )
    assert setup_script.source_of(settings) == "https://example.org/ww"
    assert setup_script.source_of(ConfigParser()) == ""
