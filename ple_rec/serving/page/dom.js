// Elements without markup: text goes in as text, whatever a server or a log holds.

const SVG = "http://www.w3.org/2000/svg";

/** The element of an id. */
export const at = (id) => document.getElementById(id);

/** An element; `attributes` may have `text` and custom properties (`--w`), which the content policy permits by script. */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An element of SVG. */
export function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** Pairs of a name and a value, as the project's pages show them. */
export function pairs(rows) {
  const cells = rows.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]);
  return make("dl", { class: "pairs" }, ...cells);
}

/** Set the text of a text node if it is another. */
export function say(node, text) {
  if (node.data !== text) node.data = text;
}

/** Mark a button as the one whose details are shown. */
export function current(button, whether) {
  if (whether) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
}

/** One tab stop for the buttons of a list; arrows, Home, End and the page keys go from one to the next. */
export function walk(list) {
  const stops = () => [...list.querySelectorAll("button")];
  list.addEventListener("focusin", ({ target }) => {
    list.querySelectorAll('button[tabindex="0"]').forEach((button) => { button.tabIndex = -1; });
    if (target.tagName === "BUTTON") target.tabIndex = 0;
  });
  list.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const all = stops(), here = all.indexOf(document.activeElement), last = all.length - 1;
    const steps = { ArrowDown: here + 1, ArrowUp: here - 1, PageDown: here + 10, PageUp: here - 10, Home: 0, End: last };
    if (here < 0 || !(event.key in steps)) return;
    event.preventDefault();
    const next = all[Math.max(0, Math.min(last, steps[event.key]))];
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  });
}

/** Give a list its tab stop back once its buttons are others: where it was, else the first. */
export function stop(list) {
  if (list.querySelector('button[tabindex="0"]')) return;
  const first = list.querySelector("button");
  if (first) first.tabIndex = 0;
}

let waiting = 0;

/** Tell a screen reader, once nothing has changed for a moment. */
export function announce(text, wait = 500) {
  clearTimeout(waiting);
  waiting = setTimeout(() => { at("said").textContent = text; }, wait);
}
