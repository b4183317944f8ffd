// Exponents of the score: for each factor a slider, and a field for an exact number.

import { make } from "./dom.js";

const STEP = 0.05, LEAST = 2, LARGEST = 1000;
// Number of significant digits of a deployed exponent that are shown; requests send all digits.
const SHOWN = 4;

/** Sliders of all factors; `changed(name, value)` is called while one is dragged. */
export class Sliders {
  constructor(place, changed) {
    Object.assign(this, { place, changed, rows: new Map(), names: [] });
  }

  /** Rebuild the sliders for other factors or other deployed exponents. */
  build(names, deployed) {
    const largest = Math.max(LEAST, ...names.map((name) => 2 * Math.ceil(Math.abs(deployed[name]))));
    Object.assign(this, { names, deployed, rows: new Map() });
    this.place.replaceChildren(...names.map((name, k) => this.#row(name, k, largest, deployed[name])));
  }

  /** Show some exponents. */
  set(exponents) {
    for (const [name, row] of this.rows) {
      const value = exponents[name];
      this.#write(row, value, null, value === this.deployed[name] ? Number(value.toPrecision(SHOWN)) : value);
    }
  }

  #row(name, k, largest, deployed) {
    const id = `exponent-${k}`, list = `${id}-deployed`;
    const range = make("input", { type: "range", id, min: -largest, max: largest, step: STEP, list });
    const number = make("input", { type: "number", step: "any", min: -LARGEST, max: LARGEST, "aria-label": `exponent of ${name}`, inputmode: "decimal" });
    const label = make("label", { for: id, text: name, title: name });
    const mark = make("datalist", { id: list }, make("option", { value: deployed }));
    const node = make("div", { class: "factor" }, label, range, number, mark);
    const row = { node, range, number };
    range.addEventListener("input", () => this.#given(name, row, range.valueAsNumber, range));
    number.addEventListener("input", () => this.#given(name, row, number.valueAsNumber, number));
    this.rows.set(name, row);
    return node;
  }

  #given(name, row, value, from) {
    const fine = Number.isFinite(value) && Math.abs(value) <= LARGEST;
    row.number.setAttribute("aria-invalid", String(!fine));
    if (!fine) return;
    this.#write(row, value, from);
    this.changed(name, value);
  }

  #write(row, value, from, shown = value) {
    if (from !== row.range) row.range.value = value;
    if (from !== row.number) row.number.value = Number(shown.toFixed(6));
    row.number.setAttribute("aria-invalid", "false");
    row.node.classList.toggle("out", value === 0);
  }
}
