"""Wrong usage is explained by one sentence, with the most similar name that exists."""

import argparse

import pytest
from commands import Terminal, run_here, save_model

from ww_callbacks.cli.parser import make_parser

COMMANDS = ("analyze", "compare", "follow", "watch", "serve")
PARSERS = next(each for each in make_parser()._actions if isinstance(each, argparse._SubParsersAction)).choices
OPTIONS = [
    (name, option)
    for name, parser in PARSERS.items()
    for action in parser._actions
    for option in action.option_strings
    if option.startswith("--")
]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("analyz m.pt", "unknown command 'analyz'; did you mean 'analyze'? Known: " + ", ".join(COMMANDS)),
        ("analyse m.pt", "unknown command 'analyse'; did you mean 'analyze'? Known: " + ", ".join(COMMANDS)),
        ("--verison", "unexpected option '--verison'; did you mean '--version'?"),
        ("--xyzzy analyze m.pt", "unexpected option '--xyzzy'"),
        ("analyze m.pt --ouput r.html", "unexpected option '--ouput'; did you mean '--output'?"),
        ("analyze --hepl", "unexpected option '--hepl'; did you mean '--help'?"),
        ("analyze m.pt --out r.html", "unexpected option '--out'; did you mean '--output'?"),
        ("analyze m.pt -output r.html", "unexpected option '-output'; did you mean '--output'?"),
        ("analyze m.pt -x", "unexpected option '-x'"),
        (
            "analyze m.pt --format htlm",
            "--format: unknown value 'htlm'; did you mean 'html'? Known: table, json, csv, html",
        ),
        ("analyze m.pt --format=xml", "--format: unknown value 'xml'; known: table, json, csv, html"),
        ("compare m.pt --interval boostrap", "--interval: unknown value 'boostrap'; did you mean 'bootstrap'?"),
        ("analyze m.pt other.pt", "unexpected argument 'other.pt'"),
        ("analyze m.pt --seed x", "--seed: invalid int value: 'x'"),
        ("analyze m.pt -q -v", "-v/--verbose: not allowed with argument -q/--quiet"),
        ("serve runs --port 65536", "--port: expected a port from 0 to 65535, got 65536"),
        ("serve runs --port -1", "--port: expected a port from 0 to 65535, got -1"),
        ("watch runs --interval soon", "--interval: expected a number of seconds above 0, got soon"),
        ("follow", "the following arguments are required: RUN_DIR"),
    ],
)
def test_the_sentence_names_what_is_wrong_and_what_is_similar(words, message, capsys):
    assert run_here(*words.split()) == 2
    told = capsys.readouterr()
    command = next((word for word in words.split()[:1] if word in COMMANDS), None)
    assert told.out == ""
    assert told.err.splitlines()[0].startswith(f"ww-callbacks: error: {message}")
    assert told.err.splitlines()[1:] == [f"see 'ww-callbacks {command + ' ' if command else ''}--help'"]


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_an_option_without_its_last_letter_is_refused_and_proposed(command, option, capsys):
    assert run_here(command, option[:-1]) == 2
    assert f"unexpected option '{option[:-1]}'; did you mean '{option}'?" in capsys.readouterr().err


def test_values_that_look_like_options_are_values(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path)
    assert run_here("analyze", "model.npz", "--seed", "-4") == 2
    assert "seed: expected at least 0, got -4" in capsys.readouterr().err
    save_model(tmp_path, "--seed.npz")
    assert run_here("analyze", "--no-randomize", "-ocompact.csv", "--", "--seed.npz") == 0
    assert (tmp_path / "compact.csv").read_text().startswith("name,kind")


def test_without_arguments_the_help_is_shown_as_an_error(capsys):
    assert run_here() == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == make_parser().format_help()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_grouped_and_ends_with_examples(command, capsys):
    assert run_here(command, "-h") == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: ww-callbacks {command} [OPTIONS] ")
    assert "\noptions:\n" not in text  # each option is in a group that is named
    last = text.rpartition("\nexamples:\n")[2]
    assert all(line.startswith(f"  ww-callbacks {command} ") for line in last.splitlines())


@pytest.mark.timeout(100)
def test_quiet_shows_no_bar_in_a_terminal(tmp_path):
    with Terminal("analyze", save_model(tmp_path), "--quiet") as terminal:
        assert terminal.wait() == 0
    assert "analysing" not in terminal.text
    assert "enc.fc1" in terminal.text
