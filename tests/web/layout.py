"""What is cut off, small or hard to read in a page as it is laid out."""

from __future__ import annotations

from pathlib import Path

from .helpers import Visit

# elements that stick out of the window or out of their box, and texts under 12 pixels
FAULTS = """() => {
  const faults = [];
  const wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > wide) faults.push(`the page is ${document.documentElement.scrollWidth}`);
  for (const one of document.body.querySelectorAll('*')) {
    const box = one.getBoundingClientRect();
    if (!box.width || !one.checkVisibility()) continue;
    const name = `${one.tagName}.${one.className} ${one.textContent.trim().slice(0, 30)}`;
    if (box.right > wide + 0.5 || box.left < -0.5) faults.push(`outside: ${name}`);
    const own = [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own) continue;
    const style = getComputedStyle(one);
    if (one.scrollWidth > one.clientWidth + 1 && style.display !== 'inline') faults.push(`cut: ${name}`);
    if (parseFloat(style.fontSize) < 12) faults.push(`small: ${name}`);
  }
  return faults;
}"""
# text whose contrast with what lies behind it is under 4.5 (WCAG AA)
CONTRAST = """() => {
  const numbers = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = colour => numbers(colour).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = one => {
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (numbers(colour)[3] !== 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const weak = [];
  for (const one of document.body.querySelectorAll('*')) {
    const own = [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !one.checkVisibility() || one.tagName === 'OPTION') continue;
    const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) weak.push(`${ratio.toFixed(2)} ${one.tagName} ${one.textContent.trim().slice(0, 30)}`);
  }
  return weak;
}"""


def check(page: Visit, picture: Path) -> None:
    """Raise for faults in light and dark; pictures of the page are written beside ``picture``."""
    for scheme in ("light", "dark"):
        page.page.emulate_media(color_scheme=scheme)
        file = picture.with_name(f"{picture.name}-{scheme}.png")
        page.page.screenshot(path=file, full_page=True)
        assert file.stat().st_size > 5000
        assert page.page.evaluate(FAULTS) == [], file
        assert page.page.evaluate(CONTRAST) == [], file
