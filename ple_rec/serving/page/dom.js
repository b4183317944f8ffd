// Creation and change of elements without HTML strings, so that text from a server or a log is never parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Return the element of an id. */
export const at = (id) => document.getElementById(id);

/** Return a new element; `attributes` may have `text` for its content and custom properties such as `--w`, which the page's content policy allows only from scripts. */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Return a new SVG element. */
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

/** Return a definition list of names and values, as on the project's other pages. */
export function pairs(rows) {
  const cells = rows.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]);
  return make("dl", { class: "pairs" }, ...cells);
}

/** Set the text of a text node, unless it has that text already. */
export function say(node, text) {
  if (node.data !== text) node.data = text;
}

/** Mark a button as the one whose details are open. */
export function current(button, whether) {
  if (whether) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
}

/** Make the buttons of a list one tab stop; arrows, Home, End and the page keys move between them. */
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

/** Restore the tab stop of a list after its buttons have changed: the same button, or else the first. */
export function stop(list) {
  if (list.querySelector('button[tabindex="0"]')) return;
  const first = list.querySelector("button");
  if (first) first.tabIndex = 0;
}

let waiting = 0;

/** Announce a text to screen readers when no other text has followed for `wait` milliseconds. */
export function announce(text, wait = 500) {
  clearTimeout(waiting);
  waiting = setTimeout(() => { at("said").textContent = text; }, wait);
}
