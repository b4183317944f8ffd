// Comparison of two orders side by side, with a line for each item from its rank in A to its rank in B.

import { current, draw, make, say, stop, walk } from "./dom.js";
import { compared } from "./fusion.js";
import { moveText } from "./feed.js";

const DEPTHS = [10, 20, 50, 100, 200];

/** Comparison of two orders; `chosen(item)` is called with the index of an item. */
export class Compare {
  constructor({ sideA, sideB, lines, depth }, chosen) {
    Object.assign(this, { sides: [sideA, sideB], lines, depth, paths: new Map(), current: -1, lit: -1, titles: [] });
    for (const side of this.sides) {
      walk(side);
      side.addEventListener("click", ({ target }) => {
        const button = target.closest("button");
        if (button) chosen(Number(button.dataset.item));
      });
      for (const kind of ["pointerover", "focusin"]) side.addEventListener(kind, ({ target }) => this.#light(target.closest("button")));
      for (const kind of ["pointerleave", "focusout"]) side.addEventListener(kind, () => this.#light(null));
    }
    depth.addEventListener("change", () => this.arrange(...this.last));
  }

  /** Show another request, given the names of its items by index. */
  show(titles) {
    Object.assign(this, { titles, current: -1 });
    const depths = [...DEPTHS.filter((depth) => depth < titles.length), Math.min(titles.length, DEPTHS.at(-1))];
    const wanted = Number(this.depth.value) || 20;
    this.depth.replaceChildren(...depths.map((depth) => make("option", { value: depth, text: depth })));
    this.depth.value = depths.find((depth) => depth >= wanted) ?? depths.at(-1);
    this.lines.replaceChildren();
    this.paths.clear();
  }

  /** Mark the item whose details are open. */
  mark(item) {
    this.current = item;
    for (const button of this.#buttons()) current(button, Number(button.dataset.item) === item);
  }

  /** Draw two orders and their ranks. */
  arrange(orderA, orderB, ranksA, ranksB) {
    this.last = [orderA, orderB, ranksA, ranksB];
    const depth = Number(this.depth.value);
    this.sides.forEach((side, b) => this.#fill(side, (b ? orderB : orderA).slice(0, depth), b ? ranksA : null));
    this.lines.setAttribute("viewBox", `0 0 100 ${depth}`);
    const wanted = new Set(compared(orderA, orderB, depth));
    for (const [item, path] of this.paths) {
      if (!wanted.has(item)) { path.remove(); this.paths.delete(item); }
    }
    for (const item of wanted) this.#line(item, ranksA[item], ranksB[item]);
  }

  #fill(side, order, from) {
    while (side.children.length > order.length) side.lastChild.remove();
    while (side.children.length < order.length) {
      const button = make("button", { type: "button", tabindex: -1 }, make("span", { class: "position" }, new Text("")), make("b", {}, new Text("")), make("span", { class: "move" }, new Text("")));
      side.append(make("li", {}, button));
    }
    order.forEach((item, rank) => {
      const button = side.children[rank].firstChild, [position, title, move] = button.children;
      button.dataset.item = item;
      current(button, item === this.current);
      say(position.firstChild, String(rank + 1));
      say(title.firstChild, this.titles[item]);
      if (from) {
        move.className = `move ${direction(from[item] - rank)}`;
        say(move.firstChild, moveText(from[item] - rank));
      }
    });
    stop(side);
  }

  #line(item, a, b) {
    let path = this.paths.get(item);
    if (!path) {
      path = draw("path", { "vector-effect": "non-scaling-stroke" });
      this.paths.set(item, path);
      this.lines.append(path);
    }
    path.setAttribute("d", `M0 ${a + 0.5}C50 ${a + 0.5} 50 ${b + 0.5} 100 ${b + 0.5}`);
    path.setAttribute("class", direction(a - b) + (item === this.lit ? " lit" : ""));
  }

  /** Highlight the item of a button on both sides, and its line. */
  #light(button) {
    this.lit = button ? Number(button.dataset.item) : -1;
    for (const each of this.#buttons()) each.classList.toggle("lit", Number(each.dataset.item) === this.lit);
    for (const [item, path] of this.paths) path.classList.toggle("lit", item === this.lit);
  }

  #buttons() {
    return this.sides.flatMap((side) => [...side.querySelectorAll("button")]);
  }
}

/** Return the CSS class of a move by a number of places; a positive number is a move up. */
function direction(places) {
  return places > 0 ? "up" : places < 0 ? "down" : "same";
}
