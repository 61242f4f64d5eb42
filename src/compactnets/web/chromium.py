"""The page in Chromium, driven by Playwright: what its tests and its benchmark share."""

from __future__ import annotations

import shutil

# nothing that Chromium does by itself: it would ask for its maker's hosts at every start
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
)
# the text of the file that the button saves, without saving it
TAKE_FILE = """async () => {
  const files = [];
  const { createObjectURL } = URL;
  const { click } = HTMLAnchorElement.prototype;
  URL.createObjectURL = (file) => (files.push(file), createObjectURL.call(URL, file));
  HTMLAnchorElement.prototype.click = () => {};
  try {
    document.getElementById("download").click();
  } finally {
    URL.createObjectURL = createObjectURL;
    HTMLAnchorElement.prototype.click = click;
  }
  return files[0].text();
}"""


def find_chromium() -> str | None:
    """Return the path of Chromium, or of Chrome; ``None`` without one."""
    return shutil.which("chromium") or shutil.which("google-chrome")
