// Which features of an item are shown: those that a person chose for this model, else those that suit the feed.

import { make } from "./dom.js";
import { idOf, telling } from "./items.js";

/** The chooser of columns; `changed()` is called after a choice. */
export class Columns {
  constructor({ title, boxes, automatic }, changed) {
    Object.assign(this, { title, boxes, choice: null });
    const choose = (choice) => {
      this.choice = choice;
      store(this.key, choice);
      changed();
    };
    for (const control of [title, boxes]) {
      control.addEventListener("change", () => choose({ title: title.value, details: this.#inputs().filter((box) => box.checked).map((box) => box.value) }));
    }
    automatic.addEventListener("click", () => choose(null));
  }

  /** Offer the features of a model's items, and recall what was chosen for that model. */
  build(model, features) {
    const names = features.map(({ name }) => name);
    Object.assign(this, { key: `ple-rec.columns:${model}`, id: idOf(features) });
    this.title.replaceChildren(...names.map((name) => make("option", { value: name, text: name })), make("option", { value: "", text: "its place in the request" }));
    this.boxes.replaceChildren(...names.map((name) => make("label", {}, make("input", { type: "checkbox", value: name }), make("span", { text: name }))));
    const { title, details } = stored(this.key) ?? {};
    this.choice = Array.isArray(details)
      ? { title: title === "" || names.includes(title) ? title : this.id, details: names.filter((name) => details.includes(name)) }
      : null;
  }

  /** {title, details}: names of the features to show of some items; a title of "" is the place in the request. */
  of(items) {
    const found = this.choice ?? { title: this.id, details: telling(items, this.id) };
    this.title.value = found.title;
    for (const box of this.#inputs()) box.checked = found.details.includes(box.value);
    return { title: found.title, details: found.details.filter((name) => name !== found.title) };
  }

  #inputs() {
    return [...this.boxes.querySelectorAll("input")];
  }
}

/** What was stored under a key; null where there is nothing, or the browser keeps nothing for this page. */
function stored(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
}

/** Store a choice, or forget it; where the browser keeps nothing, it holds until the page is closed. */
function store(key, choice) {
  try {
    if (choice) localStorage.setItem(key, JSON.stringify(choice));
    else localStorage.removeItem(key);
  } catch {
    // Refused or full.
  }
}
