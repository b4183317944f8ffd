// Tables of one item: its gate weights at every level of the network, the factors of its score, and its features.

import { make, pairs } from "./dom.js";
import { decimal, shown } from "./items.js";

/** Return a table of gate weights for each level, or a sentence if the model has no gates. A gate mixes the experts for an output: a column for each output, a row for each expert. */
export function gateTables(gates) {
  if (!gates?.length) return [make("p", { class: "facts", text: "This model has no gates: which experts an output reads does not depend on the item." })];
  return gates.flatMap((gate) => [make("h3", { text: `Level ${gate.level}: weights of the experts` }), make("div", { class: "scroll" }, heat(gate))]);
}

function heat({ level, outputs, experts, weights }) {
  const largest = Math.max(1, ...weights.flat().map(Math.abs));
  const heads = outputs.map((output) => make("th", { scope: "col", text: output }));
  const rows = experts.map((expert, e) =>
    make("tr", {}, make("th", { scope: "row", text: expert }), ...outputs.map((_, o) => cell(weights[o][e], largest))));
  const caption = make("caption", { class: "hidden", text: `Level ${level}: a row for each expert, a column for each output` });
  return make("table", { class: "heat dense" }, caption,
    make("thead", {}, make("tr", {}, make("td", { class: "unread" }), ...heads)), make("tbody", {}, ...rows));
}

function cell(weight, largest) {
  if (!weight) return make("td", { class: "unread" }, make("span", { "aria-hidden": true, text: "\u00b7" }), make("span", { class: "hidden", text: "not read" }));
  const share = `${(100 * Math.abs(weight)) / largest}%`;
  return make("td", { class: weight < 0 ? "negative" : false, "--w": share, text: weight.toFixed(2) });
}

/** Return the terms of an item's score: exponent times logarithm of the factor. */
export function factorPairs(item, exponents) {
  const factors = Object.entries(item.factors).map(([name, log]) => {
    const power = exponents[name] ?? 0;
    return [name, `${decimal(power)} \u00d7 ${decimal(log)} = ${decimal(power * log)}`];
  });
  return pairs(factors);
}

/** Return all features of a user or an item. */
export function featurePairs(features) {
  return pairs(Object.entries(features ?? {}).map(([name, value]) => [name, shown(value)]));
}
