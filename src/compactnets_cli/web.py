"""The verb that shows networks in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from compactnets_cli.options import DEPLOY, AsJson, print_json

web = typer.Typer()


@web.command("web", rich_help_panel=DEPLOY, epilog="Example: compactnets web --checkpoint muffnet_x0_5.cifar10")
def serve(
    checkpoint: Annotated[
        list[str],
        typer.Option(
            metavar="CHECKPOINT|ARTIFACT|NAME",
            help="A .safetensors file, the folder of a c or onnx artifact, or a network; repeatable.",
        ),
    ],
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="planar|onnx",
            help="planar: WebAssembly of each network; onnx: ONNX Runtime Web. Default: planar where possible.",
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 picks a free one.")] = 8000,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write, for any static web host; default: a temporary one.")
    ] = None,
    no_serve: Annotated[bool, typer.Option("--no-serve", help="Write --output and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run networks in the browser: write a static page that contains them, and serve it on this machine."""
    import signal
    import sys

    from compactnets.errors import InputError
    from compactnets.failures import scratch_folder
    from compactnets.web.server import address, open_server
    from compactnets.web.site import build_site

    if no_serve:
        if output is None:
            raise InputError("--no-serve needs --output DIR, the folder to write")
        _say(build_site(checkpoint, output, engine=engine), str(output), None, as_json)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # like Ctrl-C: the temporary folder is removed
    try:
        with scratch_folder() as scratch:
            folder = output or scratch / "site"
            with open_server(folder, port) as server:  # before the export, so that a port in use is known at once
                catalogue = build_site(checkpoint, folder, engine=engine)
                _say(catalogue, str(folder) if output else None, address(server), as_json)
                server.serve_forever()
    except KeyboardInterrupt:
        return


def _say(catalogue: dict[str, Any], folder: str | None, where: str | None, as_json: bool) -> None:
    from compactnets.console import stdout

    names = [network["name"] for network in catalogue["networks"]]
    if as_json:
        print_json({"address": where, "output": folder, "networks": catalogue["networks"]})
    else:
        lines = [f"{', '.join(names)} -> {folder}"] if folder else []
        lines += [f"{where} shows {', '.join(names)}; Ctrl-C stops it"] if where else []
        for line in lines:
            stdout.print(line)
    stdout.file.flush()
