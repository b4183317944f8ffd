// Main script of the page: it requests the ranked items of a user once, and orders them here while the exponents of the score are changed.
// Order A is that of the deployed exponents, or of those that the user has kept; order B is that of the sliders.

import { ApiError, get, post, secured } from "./api.js";
import { Columns } from "./columns.js";
import { Compare } from "./compare.js";
import { announce, at, make } from "./dom.js";
import { Feed, labelWords } from "./feed.js";
import { asCurl, asToml, meanAt, moved, orderOf, ranksOf, same, scores, tableOf } from "./fusion.js";
import { factorPairs, featurePairs, gateTables } from "./gates.js";
import { decimal, shortTitleOf, titleOf } from "./items.js";
import * as notices from "./notices.js";
import { parsed, skeleton } from "./pasted.js";
import { Sliders } from "./sliders.js";

// Number of first items of an order whose mean labels are shown.
const TOP = 10;
const feed = new Feed(at("feed"), at("more"), (item) => choose(item, true));
const compare = new Compare(
  { sideA: at("side-a"), sideB: at("side-b"), lines: at("lines"), depth: at("depth") }, (item) => choose(item, true));
const columns = new Columns({ title: at("title-by"), boxes: at("boxes"), automatic: at("automatic") }, () => {
  if (!state.answer) return;
  showRequest();
  reorder();
  choose(state.chosen, false);
});
const sliders = new Sliders(at("exponents"), (name, value) => {
  state.b = { ...state.b, [name]: value };
  reorderSoon();
});
const state = {
  model: null, examples: [], request: null, labels: null, answer: null, table: null,
  deployed: {}, a: {}, b: {}, kept: false, chosen: -1, gates: new Map(), titles: [],
};
let asked = new AbortController(), frame = 0;

/** Run an action that sends requests; if it fails, show the error and offer to repeat it. */
async function attempt(action) {
  asked.abort();
  asked = new AbortController();
  const { signal } = asked;
  document.body.setAttribute("aria-busy", "true");
  try {
    await action(signal);
    if (!signal.aborted) notices.clear();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof ApiError)) throw error;
    notices.tell(error, () => attempt(action));
  } finally {
    if (!signal.aborted) document.body.removeAttribute("aria-busy");
  }
}

/** Request the description and the examples of the served version, and show them if the version has changed. */
async function refresh(signal) {
  const [model, listed] = await Promise.all([get("/v1/model", signal), get("/v1/examples", signal)]);
  if (listed.version !== model.version) return refresh(signal); // A reload came between the two requests.
  if (JSON.stringify(model) === JSON.stringify(state.model)) return;
  const chosen = Math.max(0, at("example").selectedIndex);
  Object.assign(state, { model, examples: listed.examples });
  showModel();
  const options = state.examples.map(({ name, rows }, i) => make("option", { value: i, text: `${name}, ${rows} items` }));
  at("example").replaceChildren(...(options.length ? options : [make("option", { text: "the model has no examples" })]));
  at("example").disabled = !options.length;
  mark(chosen);
}

/** Mark an example as the open one, or the last example if the index is too large, and return its index. */
function mark(i) {
  const last = Math.max(0, state.examples.length - 1), place = Math.min(i, last);
  at("example").selectedIndex = place;
  at("previous").disabled = place === 0;
  at("next").disabled = place === last;
  return place;
}

async function example(i, signal) {
  await refresh(signal);
  if (!state.examples.length) return invite();
  const { request, labels } = await get(`/v1/examples/${mark(i)}`, signal);
  await rank(request, labels, signal);
}

function invite() {
  at("invitation").hidden = false;
  at("own").open = true;
  at("body").placeholder = skeleton(state.model.signature);
  at("body").focus();
}

/** Request a ranking of all items with their factors, which are needed to order them here by other exponents. */
async function rank(request, labels, signal) {
  const { top: _, exponents = {}, explain: __, ...rest } = request;
  const answer = await post("/v1/rank", { ...rest, explain: true }, signal);
  if (answer.version !== state.model.version) await refresh(signal);
  const table = tableOf(answer.items), deployed = answer.exponents;
  const other = !state.table || !same(table.names, deployed, state.deployed) || table.names.join() !== state.table.names.join();
  const b = other ? { ...deployed, ...exponents } : { ...state.b, ...exponents };
  Object.assign(state, { request: rest, answer, table, deployed, b, gates: new Map([[0, answer.gates]]), chosen: -1 });
  if (other) {
    Object.assign(state, { a: { ...deployed }, kept: false });
    sliders.build(table.names, deployed);
  }
  sliders.set(b);
  state.labels = labels && answer.items.map(({ index }) => labels[index]);
  showRequest();
  reorder();
  choose(order(state.b)[0], false);
}

function showModel() {
  const { name, version, signature } = state.model;
  document.title = `${name} ${version}: a ranked feed`;
  at("name").textContent = name;
  const facts = [`version ${version}`, `tasks: ${signature.tasks.map((task) => task.name).join(", ")}`, `features: ${signature.user.length} of the user, ${signature.items.length} of an item`];
  at("facts").replaceChildren(...facts.map((text) => make("span", { text })));
  const whose = signature.user.length ? "User" : "List"; // Without features of a user, a list has no user.
  at("whose").textContent = whose;
  at("previous").ariaLabel = `Previous ${whose.toLowerCase()}`;
  at("next").ariaLabel = `Next ${whose.toLowerCase()}`;
  at("about").hidden = !signature.user.length;
  columns.build(name, signature.items);
}

function showRequest() {
  const { answer, request, labels } = state, { tasks, user } = state.model.signature, ofUser = user.length > 0;
  const shown = columns.of(request.items), requested = answer.items.map(({ index }) => request.items[index]);
  state.titles = answer.items.map(({ index }, i) => titleOf(requested[i], index, shown.title));
  state.requested = requested;
  at("desk").hidden = false;
  at("user").replaceChildren(featurePairs(request.user));
  const words = ["Bars: by the task's largest prediction in this feed"];
  if (labels) words.push(`\u25cf ${ofUser ? "the user " : ""}${labelWords(true, ofUser)}`, `\u25cb ${labelWords(false, ofUser)}`, "\u00b7 no label");
  at("legend").replaceChildren(...words.map((text) => make("span", { text })));
  feed.show({ items: answer.items, requested, labels, tasks, columns: shown, ofUser });
  compare.show(answer.items.map(({ index }, i) => shortTitleOf(requested[i], index, shown.title)));
}

/** Return the order of some exponents; for the deployed ones it is the order of the answer, since rounding here may differ from the server's. */
function order(exponents, sums = null) {
  if (same(state.table.names, exponents, state.answer.exponents)) return state.answer.items.map((_, i) => i);
  return orderOf(sums ?? scores(state.table, exponents), state.table.indices);
}

function reorderSoon() {
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(reorder);
}

function reorder() {
  const begun = performance.now();
  const { table, a, b } = state, sums = scores(table, b);
  const orderA = order(a), orderB = order(b, sums), ranksA = ranksOf(orderA), ranksB = ranksOf(orderB);
  feed.arrange(orderB, ranksA, sums);
  if (!at("compare-view").hidden) compare.arrange(orderA, orderB, ranksA, ranksB);
  showGot(orderA, orderB);
  tellOrder(moved(ranksA, ranksB), orderB);
  if (state.chosen >= 0) showFactors();
  performance.clearMeasures("reorder");
  performance.measure("reorder", { start: begun, end: performance.now() });
}

function tellOrder(count, orderB) {
  const { table, a, b, kept } = state, name = kept ? "A, which you kept" : "A, the deployed exponents";
  const edited = !same(table.names, a, b);
  const text = edited ? `${count} of ${orderB.length} items stand elsewhere than with ${name}` : `The same order as with ${name}`;
  at("weighting").textContent = text;
  at("title-a").textContent = kept ? "A: kept" : "A: deployed";
  at("title-b").textContent = edited ? "B: dragged" : "B: the same";
  announce(edited ? `Order changed: ${text}; first is ${state.titles[orderB[0]]}.` : `${orderB.length} items; first is ${state.titles[orderB[0]]}.`);
}

/** Show the mean labels of the first items in both orders. */
function showGot(orderA, orderB) {
  const { labels, model } = state, { tasks } = model.signature;
  const depth = Math.min(TOP, orderB.length);
  if (!labels) return at("got").replaceChildren();
  const row = (name, items) => make("tr", {}, make("th", { scope: "row", text: name }), ...tasks.map((task) => make("td", { text: decimal(meanAt(items, labels, task.name, depth)) })));
  const heads = tasks.map((task) => make("th", { scope: "col", text: task.name }));
  at("got").replaceChildren(make("table", { class: "got" },
    make("caption", { text: `mean@${depth}: mean label of the first ${depth} items` }),
    make("thead", {}, make("tr", {}, make("td"), ...heads)),
    make("tbody", {}, row("A", orderA), row("B", orderB))));
}

/** Show an item's factors and gates; on a narrow screen they open only if the user has chosen the item (`byHand`). */
async function choose(item, byHand) {
  state.chosen = item;
  feed.mark(item);
  compare.mark(item);
  at("chosen-title").textContent = state.titles[item];
  at("features").replaceChildren(featurePairs(state.requested[item]));
  if (byHand) at("chosen").dataset.open = "true";
  showFactors();
  const { gates, request, answer } = state;
  if (!gates.has(item)) {
    at("gates").replaceChildren(make("p", { class: "facts", text: "asking for the item's gates" }));
    try {
      const alone = { ...request, items: [request.items[answer.items[item].index]], explain: true };
      gates.set(item, (await post("/v1/rank", alone)).gates);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.kind === "token") return notices.tell(error, () => choose(item, byHand));
      const again = make("button", { type: "button", text: "Try again" });
      again.addEventListener("click", () => choose(item, byHand));
      return at("gates").replaceChildren(make("p", { text: error.message }), again);
    }
  }
  if (state.chosen !== item || state.gates !== gates) return;
  at("gates").replaceChildren(...gateTables(gates.get(item)));
  if (byHand) announce(`${state.titles[item]} and its gates are shown.`);
}

function showFactors() {
  at("factors").replaceChildren(factorPairs(state.answer.items[state.chosen], state.b));
}

async function copy(button, title, text) {
  try {
    await navigator.clipboard.writeText(text);
    announce(`${title} copied`, 0);
    const said = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = said; }, 1200);
  } catch {
    at("copied-title").textContent = title; // Without permission or a secure origin, the page cannot copy; it shows the text for the user to copy.
    at("copied-text").value = text;
    at("copied").showModal();
    at("copied-text").select();
  }
}

function weigh(a, b, kept) {
  Object.assign(state, { a: { ...a }, b: { ...b }, kept });
  sliders.set(state.b);
  reorder();
}

function own() {
  let request;
  try {
    request = parsed(at("body").value, state.model?.signature);
  } catch (error) {
    return notices.note("The text is no JSON.", error.message);
  }
  if (!Array.isArray(request?.items)) return notices.note("The request has no items.", '"items" is a list of objects {feature: value, ...}, or one object {feature: list, ...} with lists of equal length');
  attempt((signal) => rank(request, null, signal));
}

function listen() {
  const go = (i) => attempt((signal) => example(i, signal));
  at("whom").addEventListener("submit", (event) => event.preventDefault());
  at("example").addEventListener("change", () => go(Number(at("example").value)));
  at("previous").addEventListener("click", () => go(Number(at("example").value) - 1));
  at("next").addEventListener("click", () => go(Number(at("example").value) + 1));
  at("ask").addEventListener("click", own);
  at("reset").addEventListener("click", () => weigh(state.deployed, state.deployed, false));
  at("keep").addEventListener("click", () => weigh(state.b, state.b, true));
  at("close").addEventListener("click", () => delete at("chosen").dataset.open);
  at("copy-toml").addEventListener("click", ({ target }) => {
    const { name, version } = state.model;
    copy(target, "fusion.toml", asToml(state.table.names, state.b, `Exponents for ${name} ${version}`));
  });
  at("copy-curl").addEventListener("click", ({ target }) => {
    copy(target, "Request", asCurl(location.origin, { ...state.request, exponents: state.b }, secured()));
  });
  for (const radio of document.querySelectorAll("input[name=view]")) {
    radio.addEventListener("change", () => {
      at("feed-view").hidden = radio.value !== "feed";
      at("compare-view").hidden = radio.value !== "compare";
      reorder();
    });
  }
}

listen();
attempt((signal) => example(0, signal));
