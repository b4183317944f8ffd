// Choice of the features of an item that the feed shows. It is automatic until the user chooses; the browser stores a choice for each model.

import { make } from "./dom.js";
import { idOf, telling } from "./items.js";

/** Controls for the choice of columns; `changed()` is called after a choice. */
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

  /** Offer the features of a model's items, and restore the stored choice for that model. */
  build(model, features) {
    const names = features.map(({ name }) => name);
    Object.assign(this, { key: `ple-rec.columns:${model}`, id: idOf(features) });
    this.title.replaceChildren(...names.map((name) => make("option", { value: name, text: name })), make("option", { value: "", text: "its index in the request" }));
    this.boxes.replaceChildren(...names.map((name) => make("label", {}, make("input", { type: "checkbox", value: name }), make("span", { text: name }))));
    const { title, details } = stored(this.key) ?? {};
    this.choice = Array.isArray(details)
      ? { title: title === "" || names.includes(title) ? title : this.id, details: names.filter((name) => details.includes(name)) }
      : null;
  }

  /** Return {title, details}, the names of the features to show of some items, and set the controls to them; a title of "" stands for the item's index in the request. */
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

/** Return the stored value of a key; null if there is none, or if the browser stores nothing for this page. */
function stored(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
}

/** Store a choice, or remove it; if the browser stores nothing, the choice lasts until the page is closed. */
function store(key, choice) {
  try {
    if (choice) localStorage.setItem(key, JSON.stringify(choice));
    else localStorage.removeItem(key);
  } catch {
    // Storage is refused or full.
  }
}
