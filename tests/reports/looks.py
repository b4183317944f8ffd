"""What a person would see of a page at a glance, as JavaScript that a browser evaluates in it."""

from __future__ import annotations

_CONTRAST = """
const rgb = text => { const n = text.match(/[\\d.e+-]+/g).map(Number);
  return (text.startsWith('color(') ? n.map((v, i) => i < 3 ? 255 * v : v) : n); };
const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const behind = node => { for (; node; node = node.parentElement) {
  const color = rgb(getComputedStyle(node).backgroundColor); if (color.length < 4 || color[3] > 0) return color; }
  return rgb(getComputedStyle(document.documentElement).backgroundColor); };
"""
# Every text whose contrast with what lies behind it is below WCAG's AA; text on bars has their colour behind it.
FAINT = f"""(() => {{ {_CONTRAST}
  const found = new Set(), texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {{ const node = texts.currentNode.parentElement, words = texts.currentNode.data.trim();
    if (!words || node.closest('title, style') || node.matches('text.on, .map text')) continue;
    const style = getComputedStyle(node), ink = node.closest('svg') ? style.fill : style.color;
    const [a, b] = [light(rgb(ink)), light(behind(node))].sort((a, b) => b - a), ratio = (a + .05) / (b + .05);
    if (!(ratio >= 4.5)) found.add(`${{words.slice(0, 30)}}: ${{ratio.toFixed(2)}} (${{ink}})`); }}
  return [...found]; }})()"""
# Every element that ends right of the window, but for what scrolls by itself.
BEYOND = """[...document.querySelectorAll('body *')].filter(node =>
  !node.closest('.scroll, pre') && node.getBoundingClientRect().right > innerWidth + 1
  ).map(node => node.tagName + '.' + node.className)"""
# Every table of these sections that has to scroll.
CUT = """[...document.querySelectorAll('#results .scroll, #slices .scroll')].filter(node =>
  node.scrollWidth > node.clientWidth).map(node => node.innerText.slice(0, 60))"""
# Every note of a square panel that does not begin below its caption.
INLINE = """[...document.querySelectorAll('.panels.square small')].filter(node =>
  node.offsetLeft > node.parentElement.offsetLeft + 1).map(node => node.innerText)"""
UNFOLD = "document.querySelectorAll('details').forEach(fold => { fold.open = true; })"
