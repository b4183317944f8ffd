// Texts of an item: its name, and the features that distinguish the items of a feed.

// Features with these names are shown first, in this order.
const TELLING = [/author|seller|artist/, /second|duration|length/, /categor|tag|genre|topic|title|name/, /age|plays|fans|price/];
const SHOWN = 3;

/** Return the feature that names an item: the single-valued one with the largest table, or "" without any. */
export function idOf(features) {
  const single = features.filter(({ dense, bag, vector, events }) => !dense && !bag && !vector && !events);
  return single.reduce((best, each) => (each.rows > best.rows ? each : best), single[0])?.name ?? "";
}

/** Return the names of up to three features that vary in the feed, other than the one that names the items. */
export function telling(items, title) {
  const names = [...new Set(items.flatMap(Object.keys))];
  const distinct = new Map(names.map((name) => [name, new Set(items.map((item) => JSON.stringify(item[name]))).size]));
  const varying = items.length > 1 ? names.filter((name) => distinct.get(name) > 1) : names;
  const place = (name) => {
    const found = TELLING.findIndex((pattern) => pattern.test(name));
    return found < 0 ? TELLING.length : found;
  };
  const others = varying.filter((name) => name !== title);
  const sorted = others.sort((a, b) => place(a) - place(b) || distinct.get(b) - distinct.get(a));
  const kinds = new Set();
  const details = sorted.filter((name) => {
    const kind = place(name) < TELLING.length ? place(name) : name;
    return !kinds.has(kind) && kinds.add(kind); // One feature of a kind is enough, since author_id and author_fans say nearly the same.
  });
  return details.slice(0, SHOWN);
}

/** Return a raw value as text for people. */
export function shown(value) {
  if (value === null || value === undefined) return "\u2013";
  if (Array.isArray(value)) return value.length ? value.map(shown).join(" ") : "none";
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Return the name of an item in lists: a feature and its raw value, usually the id, or else its index in the request. */
export function titleOf(item, index, title) {
  return named(item, title) ? `${title} ${shown(item[title])}` : `no. ${index + 1} of the request`;
}

/** Return a short name of an item, if one feature names all items of the list. */
export function shortTitleOf(item, index, title) {
  return named(item, title) ? shown(item[title]) : titleOf(item, index, title);
}

const named = (item, title) => title !== "" && (item[title] ?? "") !== "";

/** Return a feature and its value as text; from its name, a beginning in common with the title and "_id" are removed. */
export function detailOf(item, name, title) {
  const owner = name.startsWith(`${brief(title)}_`) ? name.slice(brief(title).length + 1) : name;
  return `${brief(owner)} ${shown(item[name])}`;
}

const brief = (name) => name.replace(/_id$/, "");

/** Return a prediction or label with few digits. */
export function decimal(x) {
  if (x === null || x === undefined || !Number.isFinite(x)) return "\u2013";
  const size = Math.abs(x);
  if (size >= 100) return x.toFixed(0);
  if (size >= 0.0995 || size === 0) return x.toFixed(3);
  return size >= 1e-4 ? x.toPrecision(2) : x.toExponential(1);
}
