// Ranked feed: a row for each item, which moves when the order changes.

import { current, make, say, stop, walk } from "./dom.js";
import { decimal, detailOf, shown, titleOf } from "./items.js";

// Number of rows that are shown first, and that the button below the list adds.
const PART = 200;
const MILLISECONDS = 220;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** Feed in a list; `chosen(item)` is called with the index of an item. */
export class Feed {
  constructor(list, more, chosen) {
    Object.assign(this, { list, more, chosen, rows: new Map(), order: [], limit: PART, current: -1 });
    walk(list);
    new ResizeObserver(() => this.#measure()).observe(list);
    list.addEventListener("click", ({ target }) => {
      const row = target.closest("button");
      if (row) this.chosen(Number(row.dataset.item));
    });
    more.addEventListener("click", () => {
      this.limit += PART;
      this.arrange(this.order, this.from, this.sums);
    });
  }

  /** Show another request, or other columns. `items` of the answer, `requested` features and `labels` are arrays in one order; `ofUser` is true if the request has features of a user. */
  show(feed) {
    Object.assign(this, { feed, rows: new Map(), order: [], limit: PART, current: -1 });
    const { items, tasks } = feed;
    this.largest = tasks.map(({ name }) => Math.max(1e-12, ...items.map((item) => item.predictions[name])));
    this.list.replaceChildren();
  }

  /** Mark the item whose details are open. */
  mark(item) {
    for (const each of [this.current, item]) {
      const row = this.rows.get(each);
      if (row) current(row.node.firstChild, each === item);
    }
    this.current = item;
  }

  /** Put the rows in an order; `from` has the rank of each item in the order that moves are counted from, and `sums` its score. */
  arrange(order, from, sums) {
    const before = new Map(this.order.slice(0, this.limit).map((item, rank) => [item, rank]));
    const seen = this.#seen(before.size);
    const focus = this.list.contains(document.activeElement) ? document.activeElement : null;
    Object.assign(this, { order, from, sums });
    let cursor = this.list.firstChild;
    const top = order.slice(0, this.limit), travels = [];
    top.forEach((item, rank) => {
      const row = this.#row(item);
      say(row.position, String(rank + 1));
      say(row.score, decimal(sums[item]));
      this.#move(row, from[item] - rank);
      if (row.node === cursor) cursor = cursor.nextSibling;
      else this.list.insertBefore(row.node, cursor);
      const old = before.get(item);
      if (seen && old !== undefined && old !== rank && (seen.has(old) || seen.has(rank))) travels.push([row.node, old - rank]);
    });
    while (this.list.children.length > top.length) this.list.lastChild.remove();
    if (focus && focus !== document.activeElement && focus.isConnected) focus.focus({ preventScroll: true });
    for (const [node, ranks] of travels) travel(node, ranks * seen.height);
    stop(this.list);
    this.more.hidden = order.length <= this.limit;
    this.more.textContent = `Show ${Math.min(PART, order.length - this.limit)} more of ${order.length}`;
  }

  /** Measure the height of a row, which the style sheet needs for rows off the screen. */
  #measure() {
    this.height = this.list.firstChild?.offsetHeight ?? 0;
    if (this.height) this.list.style.setProperty("--row", `${this.height}px`);
  }

  /** Return {height, has}: the height of every row, and a function that tells if a rank is on the screen; null if rows need not be animated. */
  #seen(count) {
    if (!count || !this.height || calm.matches || this.list.offsetParent === null) return null;
    const { top } = this.list.getBoundingClientRect(), height = this.height;
    const first = -top / height - 1, last = (innerHeight - top) / height;
    return { height, has: (rank) => rank >= first && rank <= last };
  }

  #move(row, places) {
    if (row.places === places) return;
    row.places = places;
    row.move.className = `move ${places > 0 ? "up" : places < 0 ? "down" : "same"}`;
    row.move.textContent = moveText(places);
  }

  #row(item) {
    const known = this.rows.get(item);
    if (known) return known;
    const { items, requested, labels, tasks, columns } = this.feed;
    const features = requested[item], position = new Text(""), score = new Text(""), move = make("span");
    const details = columns.details.map((name) => make("small", { text: detailOf(features, name, columns.title), title: `${name} ${shown(features[name])}` }));
    const button = make(
      "button",
      { type: "button", "data-item": item, tabindex: -1, "aria-current": item === this.current && "true" },
      make("span", { class: "position" }, position),
      move,
      make("b", { text: titleOf(features, items[item].index, columns.title) }),
      make("span", { class: "details" }, ...details),
      make("span", { class: "tasks" }, ...tasks.map((task, k) => this.#task(task, items[item].predictions[task.name], labels?.[item]?.[task.name], k))),
      make("span", { class: "score" }, make("span", { class: "hidden", text: "score " }), score),
    );
    const row = { node: make("li", {}, button), position, score, move, places: null };
    this.rows.set(item, row);
    return row;
  }

  #task(task, prediction, label, k) {
    const width = `${(100 * Math.max(0, prediction)) / this.largest[k]}%`;
    return make("span", { class: "task" },
      make("span", { class: "name", text: task.name, title: task.name }),
      make("span", { class: "value", text: decimal(prediction) }),
      labelMark(task.kind, label, this.feed.ofUser),
      make("i", { "--w": width }));
  }
}

/** Return the text of a move up or down. */
export function moveText(places) {
  return places > 0 ? `\u25b2${places}` : places < 0 ? `\u25bc${-places}` : "=";
}

/** Return words for a binary label: "did" or "did not" for a user, "label 1" or "label 0" for lists without a user. */
export function labelWords(did, ofUser) {
  return ofUser ? (did ? "did" : "did not") : `label ${did ? 1 : 0}`;
}

/** Return a mark for the label of an item, with words for screen readers; an empty mark if the request has no labels. */
function labelMark(kind, label, ofUser) {
  if (label === undefined) return make("span", { class: "label" });
  if (label === null) return make("span", { class: "label none", title: "outside of the task's sample space" }, "\u00b7", make("span", { class: "hidden", text: " no label" }));
  if (kind !== "binary") return make("span", { class: "label number", title: "label: the real value" }, make("span", { class: "hidden", text: "label " }), decimal(label));
  const did = label > 0, words = labelWords(did, ofUser);
  return make("span", { class: did ? "label did" : "label", title: ofUser ? `the user ${words}` : words }, did ? "\u25cf" : "\u25cb", make("span", { class: "hidden", text: ` ${words}` }));
}

/** Animate a row from its old to its new position. Moves add up, so an interrupted move continues smoothly. */
function travel(node, pixels) {
  node.animate({ transform: [`translateY(${pixels}px)`, "none"] }, { duration: MILLISECONDS, easing: "ease-out", composite: "add" });
}
