// Score fusion as the server does it (the paper's Eq. 1, in logarithms), and what follows from two orders.
//
//     score_i = sum_k exponent_k * factor_ik
//
// A table has the factors of all items by column: {names: [K], columns: [K Float64Array of N], indices: [N]}.

/** The table of an answer's items, which have `factors` and, of the request, `index`. */
export function tableOf(items) {
  const names = Object.keys(items[0]?.factors ?? {});
  return {
    names,
    columns: names.map((name) => Float64Array.from(items, (item) => item.factors[name])),
    indices: items.map((item) => item.index),
  };
}

/** Log score of every item. */
export function scores(table, exponents) {
  const sums = new Float64Array(table.indices.length);
  table.names.forEach((name, k) => {
    const exponent = exponents[name] ?? 0, column = table.columns[k];
    for (let i = 0; i < sums.length; i++) sums[i] += exponent * column[i];
  });
  return sums;
}

/** Places of the items in the table, best first; of equal ones the earlier in the request, as the server has it. */
export function orderOf(sums, indices) {
  return Array.from(sums.keys()).sort((a, b) => sums[b] - sums[a] || indices[a] - indices[b]);
}

/** Rank of every item, from 0. */
export function ranksOf(order) {
  const ranks = new Int32Array(order.length);
  order.forEach((item, rank) => { ranks[item] = rank; });
  return ranks;
}

/** How many items stand elsewhere. */
export function moved(ranksA, ranksB) {
  let count = 0;
  for (let i = 0; i < ranksA.length; i++) count += ranksA[i] !== ranksB[i];
  return count;
}

/** Items that are among the first `depth` of either order, in the order of B, then of A: one line of a comparison each. */
export function compared(orderA, orderB, depth) {
  return [...new Set([...orderB.slice(0, depth), ...orderA.slice(0, depth)])];
}

/** Whether two weightings are one, of these factors. */
export function same(names, a, b) {
  return names.every((name) => a[name] === b[name]);
}

/** TASK.mean@depth, as `ple-rec fuse` has it: the mean label of the first items, 0 outside of the task's sample space. */
export function meanAt(order, labels, task, depth) {
  const top = order.slice(0, depth);
  return top.reduce((sum, item) => sum + (labels[item]?.[task] ?? 0), 0) / top.length;
}

/** The exponents as lines of fusion.toml. */
export function asToml(names, exponents, title) {
  const key = (name) => (/^[\w-]+$/.test(name) ? name : JSON.stringify(name));
  const number = (x) => (Number.isInteger(x) && Math.abs(x) < 1e15 ? x.toFixed(1) : String(x));
  const tables = names.map((name) => {
    const header = name === "length" ? "[length]" : `[tasks.${key(name)}]`;
    return `${header}\nexponent = ${number(exponents[name])}\n`;
  });
  return `# ${title}\n${tables.join("\n")}`;
}

/** The request as a command; the token, where one is needed, comes from the environment. */
export function asCurl(origin, body, secured) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const token = secured ? ' -H "Authorization: Bearer $PLE_REC_TOKEN"' : "";
  return `curl -sS ${quoted(`${origin}/v1/rank`)} -H 'Content-Type: application/json'${token} -d ${quoted(JSON.stringify(body))}`;
}
