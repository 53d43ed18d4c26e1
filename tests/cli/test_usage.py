"""Transcripts of commands that are used wrongly: exit code 2, ``shosoin: error:``, and a hint that helps."""

from __future__ import annotations

import re

import pytest

import shosoin as package

TALK = re.compile(r"shosoin: (error|hint|alarm): .+")


def test_version_is_data(shosoin):
    answer = shosoin("--version")
    assert (answer.code, answer.out, answer.err) == (0, f"shosoin {package.__version__}\n", "")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_names_every_command(shosoin, arguments):
    answer = shosoin(*arguments)
    assert answer.code == 0
    assert answer.err == ""
    listed = answer.out.partition("Commands:")[2]
    for command in ("demo", "put", "get", "ls", "stat", "rm", "verify", "doctor", "testbed", "kme", "node"):
        assert re.search(rf"^  {command} ", listed, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (("demoo",), "no such command 'demoo'", "did you mean 'demo'?"),
        (("testbed", "statuss", "--dir", "x"), "no such command 'statuss'", "'status'"),
        (("testbed",), "missing command", "--help"),
        (("kme",), "missing command", "--help"),
        (("put",), "missing argument 'FILE'", "--help"),
        (("put", "--schema", "3-of-5"), "no such option: --schema", "did you mean --scheme"),
        (("put", "a", "b", "c"), "unexpected extra argument", "--help"),
        (("put", "a", "b", "--class", "aes"), "'aes' is not one of", "--help"),
        (("demo", "--class", "pqc"), "'pqc' is not one of", "--help"),
        (("demo", "--lose", "x"), "valid integer", "--help"),
        (("demo", "--lose", "-1"), "cannot lose -1 sites", ""),
        (("demo", "--scenario", "five-site"), "no scenario 'five-site'", "did you mean 'five-sites'?"),
        (("demo", "/nonexistent/file"), "/nonexistent/file is not a file", ""),
        (("kme", "run"), "missing option '--config'", "--help"),
        (("node", "run", "--config", "/nonexistent"), "does not exist", "--help"),
        (("ls",), "no owner named", "--testbed DIR"),
        (("ls", "--testbed", "/nonexistent"), "/nonexistent is not a testbed", "testbed up"),
        (("ls", "--config", "/nonexistent"), "cannot read /nonexistent", ""),
        (("ls", "--config", "a", "--testbed", "b"), "exclude each other", ""),
        (("ls", "--config", "a", "--as", "owner-1"), "--as goes with --testbed", ""),
        (("get", "name", "-", "--json"), "both want standard output", "FILE"),
        (("get", "name", "x", "--range", "5-1"), "ends before it starts", ""),
        (("get", "name", "x", "--range", "-5"), "not of the form START-END", ""),
        (("get", "name", "x", "--range", "1-2-3"), "not of the form START-END", ""),
        (("testbed", "status", "--dir", "/nonexistent"), "is not a testbed", "testbed up --dir /nonexistent"),
        (("doctor", "--dir", "/nonexistent"), "does not exist", "--help"),
    ],
)
def test_wrong_usage_is_refused_in_one_form(shosoin, arguments, error, hint):
    answer = shosoin(*arguments)
    assert answer.code == 2
    assert answer.out == ""
    assert len(answer.errors) == 1
    assert error in answer.errors[0]
    assert answer.errors[0].startswith("shosoin: error: ")
    assert answer.errors[0][len("shosoin: error: ")] == answer.errors[0][len("shosoin: error: ")].lower()
    assert all(TALK.fullmatch(line) for line in answer.err.splitlines())
    assert hint in "\n".join(answer.hints)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--scheme", "1-of-5"), "k = 1"),
        (("--scheme", "6-of-5"), "6-of-5"),
        (("--scheme", "3"), "K-of-N"),
        (("--scheme", "3-of-99"), "3-of-99"),
    ],
)
def test_a_bad_scheme_is_refused_before_anything_is_opened(shosoin, tmp_path, arguments, error):
    file = tmp_path / "file"
    file.write_bytes(b"content")
    answer = shosoin("put", file, "name", "--config", tmp_path / "none.toml", *arguments)
    assert answer.code == 2
    assert error in answer.errors[0]


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
@pytest.mark.parametrize("content_type", ["", "text/plain\n", "t" * 101])
def test_a_bad_type_is_refused_before_anything_is_opened(shosoin, tmp_path, content_type, dry_run):
    file = tmp_path / "file"
    file.write_bytes(b"content")
    answer = shosoin("put", file, "name", "--config", tmp_path / "none.toml", "--content-type", content_type, *dry_run)
    assert answer.code == 2
    assert "content type" in answer.errors[0]
    assert "media type" in answer.hints[0]


def test_put_refuses_what_is_no_file(shosoin, tmp_path):
    answer = shosoin("put", tmp_path, "name", "--config", "owner.toml")
    assert answer.code == 2
    assert "is not a regular file" in answer.errors[0]
    assert "shosoin put - NAME" in answer.hints[0]
    answer = shosoin("put", tmp_path / "nothing", "name", "--config", "owner.toml")
    assert answer.code == 2
    assert "nothing: no such file or directory" in answer.errors[0]


def test_losing_more_sites_than_there_are_is_unavailable(shosoin):
    answer = shosoin("demo", "--lose", "5")
    assert answer.code == 4
    assert "3 are needed" in answer.errors[0]


def test_japanese_falls_back_to_english(shosoin, monkeypatch):
    monkeypatch.setenv("SHOSOIN_LANG", "ja")
    answer = shosoin("ls")
    assert "use --testbed DIR" in answer.hints[0]
