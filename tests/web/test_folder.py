"""The folder that `compactnets web` writes, and the server; neither needs a browser or Node.js."""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.client
import json
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from compactnets.deploy.record import digest
from compactnets.errors import InputError
from compactnets.web.page import find_page
from compactnets.web.server import open_server, serving
from compactnets.web.site import build_site

from .helpers import TINY


@pytest.fixture
def artifact(onnx_artifact: Path) -> Path:
    return onnx_artifact


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """In place of the built page."""
    (tmp_path / "page" / "assets").mkdir(parents=True)
    (tmp_path / "page" / "index.html").write_text("<!doctype html>", encoding="utf-8")
    for name in ("a.wasm", "a.mjs", "a.js", "ort-a.wasm", "ort-a.mjs", "onnx-a.js"):
        (tmp_path / "page" / "assets" / name).write_bytes(b"0")
    return tmp_path / "page"


@pytest.mark.parametrize("engine", ["planar", "onnx"])
def test_the_folder_says_what_the_page_shows(
    artifacts: Path, onnx_artifact: Path, page: Path, tmp_path: Path, engine: str
) -> None:
    """The files of ONNX Runtime are there only where a network needs them."""
    artifact, main = (artifacts / "tiny", "model.c") if engine == "planar" else (onnx_artifact, "model.onnx")
    known = artifact.name if engine == "planar" else "onnx"
    output = tmp_path / "site"
    catalogue = build_site([str(artifact), str(artifact / main)], output, page=page)
    assert json.loads((output / "networks.json").read_text(encoding="utf-8")) == catalogue
    first, second = catalogue["networks"]
    assert (first["name"], second["name"]) == (known, f"{known} (2)")
    for network in (first, second):
        assert network["engine"] == engine
        for stored in (network, network["code"]) if engine == "planar" else (network,):
            assert digest(output / stored["file"]) == stored["sha256"]
            assert (output / stored["file"]).stat().st_size == stored["bytes"]
    runtime = {"assets/ort-a.wasm", "assets/ort-a.mjs", "assets/onnx-a.js"} if engine == "onnx" else set()
    assert set(catalogue["runtime_files"]) == runtime
    assert catalogue["runtime_bytes"] == len([file for file in runtime if file.endswith(".wasm")])
    assert first["preprocess"] == TINY.to_dict()
    assert first["trained"]
    assert 0 <= first["verification"]["relative_difference"] < 1e-5
    assert [example["attribution"] for example in catalogue["examples"]] == [
        "danielbuechele, CC BY 2.0",
        "vultilion, CC BY 2.0",
    ]
    found = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert found == set(catalogue["files"])
    assert {file for file in found if file.startswith(("assets/ort-", "assets/onnx-"))} == runtime
    build_site([str(artifact)], output, page=page)  # a folder of ours is replaced, with what was too much in it
    written = ["tiny.bin", "tiny.wasm"] if engine == "planar" else ["onnx.onnx"]
    assert sorted(path.name for path in (output / "models").iterdir()) == written


def test_a_folder_that_holds_something_else_is_left_alone(artifact: Path, page: Path, tmp_path: Path) -> None:
    output = tmp_path / "site"
    build_site([str(artifact)], output, page=page)
    (output / "models" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"holds models/thesis.txt, which 'compactnets web' did not write"):
        build_site([str(artifact)], output, page=page)
    assert (output / "models" / "thesis.txt").read_text(encoding="utf-8") == "mine"
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="must be a folder"):
        build_site([str(artifact)], tmp_path / "file", page=page)


def test_wrong_networks_leave_nothing_behind(artifact: Path, page: Path, tmp_path: Path) -> None:
    output = tmp_path / "sites" / "site"
    spoilt = Path(shutil.copytree(artifact, tmp_path / "spoilt"))
    (spoilt / "model.onnx").write_bytes(b"another")
    other = Path(shutil.copytree(artifact, tmp_path / "other"))
    record = json.loads((other / "artifact.json").read_text(encoding="utf-8"))
    (other / "model.onnx").rename(other / "model.pt2")
    record.update(format="torch", files={"model.pt2": next(iter(record["files"].values()))})
    (other / "artifact.json").write_text(json.dumps(record), encoding="utf-8")
    cases = {
        str(spoilt): "sha256 differs",
        str(other): "is a torch artifact, the page runs c and onnx: export it with --format c",
        str(tmp_path): "no artifact.json",
        "menet_108": "no network is called 'menet_108'",
        "nowhere.safetensors": "no checkpoint at nowhere.safetensors",
    }
    for what, message in cases.items():
        with pytest.raises(InputError, match=message):
            build_site([str(artifact), what], output, page=page)
        assert not list(output.parent.iterdir()) if output.parent.exists() else True
    with pytest.raises(InputError, match="at least one"):
        build_site([], output, page=page)


def test_a_page_that_is_not_built_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no web page; with Node.js .* run 'python -m pip install --no-deps \.'"):
        find_page(tmp_path / "page", tmp_path / "web")
    (tmp_path / "web" / "src").mkdir(parents=True)
    (tmp_path / "web" / "package-lock.json").write_text("{", encoding="utf-8")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"is not built: Node.js 20.* node and npm are not on the PATH"):
        find_page(tmp_path / "page", tmp_path / "web")
    for name, says in (("npm", "echo 'npm error: the disk is full' >&2; exit 1"), ("node", "echo v22.12.0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{says}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(InputError, match=r"is not built: 'npm ci' failed: npm error: the disk is full$"):
        find_page(tmp_path / "page", tmp_path / "web")


def test_headers_types_and_what_is_not_served(page: Path) -> None:
    with serving(page) as address:
        port = int(address.rsplit(":", 1)[1].strip("/"))

        def ask(path: str, host: str = f"127.0.0.1:{port}") -> http.client.HTTPResponse:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", path, headers={"Host": host})
            return connection.getresponse()

        answer = ask("/")
        assert answer.status == 200
        for name, value in {
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Embedder-Policy": "require-corp",
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
        }.items():
            assert answer.getheader(name) == value
        types = {name: ask(f"/assets/{name}").getheader("Content-Type") for name in ("a.wasm", "a.mjs", "a.js")}
        assert types == {"a.wasm": "application/wasm", "a.mjs": "text/javascript", "a.js": "text/javascript"}
        assert ask("/assets/").status == 404
        assert ask("/../../etc/passwd").status == 404
        assert ask("/nothing").status == 404
        assert ask("/", host="evil.example").status == 421


def test_the_server_compresses_and_lets_the_browser_keep(page: Path) -> None:
    text = b"// the same line\n" * 2000
    (page / "assets" / "main-Ab3_-x9Z.js").write_bytes(text)
    (page / "assets" / "plain.js").write_bytes(text)
    (page / "model.onnx").write_bytes(text)

    with serving(page) as address:

        def ask(path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
            request = urllib.request.Request(
                address + path, headers={k.replace("_", "-"): v for k, v in headers.items()}
            )
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return answer.status, dict(answer.headers), answer.read()
            except urllib.error.HTTPError as error:
                return error.code, dict(error.headers), error.read()

        status, headers, body = ask("assets/main-Ab3_-x9Z.js", Accept_Encoding="gzip, br")
        assert (status, headers["Content-Encoding"], gzip.decompress(body)) == (200, "gzip", text)
        assert len(body) == int(headers["Content-Length"]) < len(text) / 10
        assert "immutable" in headers["Cache-Control"]
        assert headers["Content-Type"] == "text/javascript"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        again, kept, nothing = ask("assets/main-Ab3_-x9Z.js", Accept_Encoding="gzip", If_None_Match=headers["ETag"])
        assert (again, nothing, kept["ETag"]) == (304, b"", headers["ETag"])
        status, headers, body = ask("assets/plain.js")
        assert (status, body, headers.get("Content-Encoding")) == (200, text, None)
        assert headers["Cache-Control"] == "no-cache"
        assert headers["Vary"] == "Accept-Encoding"
        (page / "assets" / "plain.js").write_bytes(text[:-1])  # what changed is sent anew
        assert ask("assets/plain.js", If_None_Match=headers["ETag"])[2] == text[:-1]
        status, headers, body = ask("model.onnx", Accept_Encoding="gzip")
        assert (body, headers.get("Content-Encoding")) == (text, None)
        assert ask("", Accept_Encoding="gzip")[1]["Content-Type"].startswith("text/html")


def test_networks_say_what_they_are_of(artifact: Path, page: Path, tmp_path: Path) -> None:
    """The tag of named weights, what they were trained on without its folders, and what an artifact does not know."""
    from compactnets.web.site import _data_name

    from .helpers import record_of

    catalogue = build_site([str(artifact)], tmp_path / "site", page=page)
    assert catalogue["networks"][0]["data"] == ""
    assert catalogue["runtime_bytes"] == 1
    assert [example["name"] for example in catalogue["examples"]] == ["Temple in China", "Flower"]
    for data, name in (
        ("/somewhere/photos/", "photos"),
        ("cifar10", "cifar10"),
        ("hf:a/b", "hf:a/b"),
        (r"C:\x\y", "y"),
    ):
        assert _data_name(record_of("a", TINY, 2).model_copy(update={"training": {"data": data}})) == name


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"^port {port} is in use: choose another --port, or 0 for any free one$"):
            open_server(tmp_path, port)


@pytest.mark.parametrize("fault", [None, ValueError])
def test_a_page_that_is_closed_early_is_no_error(
    fault: type[Exception] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The browser resets the connection in the middle of a network; any other fault is still shown."""
    done = threading.Event()
    copy = SimpleHTTPRequestHandler.copyfile

    def send(self: Any, source: Any, target: Any) -> None:
        if fault is not None:
            raise fault
        copy(self, source, target)

    monkeypatch.setattr(SimpleHTTPRequestHandler, "copyfile", send)
    (tmp_path / "model.onnx").write_bytes(bytes(64 << 20))
    with open_server(tmp_path, 0) as server:
        shut = server.shutdown_request
        server.shutdown_request = lambda request: (shut(request), done.set())  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with socket.create_connection(server.server_address[:2]) as browser:
            browser.sendall(b"GET /model.onnx HTTP/1.0\r\nHost: localhost\r\n\r\n")
            browser.recv(100)
            browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert done.wait(20)
        server.shutdown()
    shown = capsys.readouterr().err
    assert "ValueError" in shown if fault else shown == ""


def test_the_command_serves_until_it_is_stopped(artifact: Path, page: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import compactnets.web.site as web; from compactnets_cli import main;"
        f" web.find_page = lambda: Path({str(page)!r}); main()"
    )
    arguments = ["web", "--checkpoint", str(artifact), "--port", "0", "--output", str(tmp_path / "site")]
    command = [sys.executable, "-c", code, *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # a shell makes what it starts in the background deaf to Ctrl-C, the tests and what they start included
    ctrl_c = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, preexec_fn=ctrl_c, **streams) as running, contextlib.ExitStack() as stack:  # type: ignore[call-overload]
        stack.callback(running.kill)
        assert running.stdout is not None
        assert running.stdout.readline() == f"onnx -> {tmp_path / 'site'}\n"
        line = running.stdout.readline()
        assert line.endswith("/ shows onnx; Ctrl-C stops it\n")
        with urllib.request.urlopen(line.split()[0] + "networks.json", timeout=10) as answer:
            assert json.load(answer)["networks"][0]["name"] == "onnx"
        running.send_signal(signal.SIGINT)
        assert running.wait(10) == 0
        assert running.stderr is not None
        assert running.stderr.read() == ""
