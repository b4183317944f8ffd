// Scores of items by the server's formula, which combines the predictions of all tasks (the paper's Eq. 1, in logarithms), and comparisons of two orders.
//
//     score_i = sum_k exponent_k * factor_ik
//
// A table has the factors of all items by column: {names: [K], columns: [K Float64Array of N], indices: [N]}.

/** Return the table of an answer's items, which have `factors` and their `index` in the request. */
export function tableOf(items) {
  const names = Object.keys(items[0]?.factors ?? {});
  return {
    names,
    columns: names.map((name) => Float64Array.from(items, (item) => item.factors[name])),
    indices: items.map((item) => item.index),
  };
}

/** Return the log score of every item. */
export function scores(table, exponents) {
  const sums = new Float64Array(table.indices.length);
  table.names.forEach((name, k) => {
    const exponent = exponents[name] ?? 0, column = table.columns[k];
    for (let i = 0; i < sums.length; i++) sums[i] += exponent * column[i];
  });
  return sums;
}

/** Return the indices of the items, best first; ties are in the order of the request, as on the server. */
export function orderOf(sums, indices) {
  return Array.from(sums.keys()).sort((a, b) => sums[b] - sums[a] || indices[a] - indices[b]);
}

/** Return the rank of every item, from 0. */
export function ranksOf(order) {
  const ranks = new Int32Array(order.length);
  order.forEach((item, rank) => { ranks[item] = rank; });
  return ranks;
}

/** Return the number of items whose ranks in two orders differ. */
export function moved(ranksA, ranksB) {
  let count = 0;
  for (let i = 0; i < ranksA.length; i++) count += ranksA[i] !== ranksB[i];
  return count;
}

/** Return the items among the first `depth` of either order, in the order of B, then of A. */
export function compared(orderA, orderB, depth) {
  return [...new Set([...orderB.slice(0, depth), ...orderA.slice(0, depth)])];
}

/** Return true if two sets of exponents agree on these factors. */
export function same(names, a, b) {
  return names.every((name) => a[name] === b[name]);
}

/** Return TASK.mean@depth as `ple-rec fuse` defines it: the mean label of the first items; a row that does not count for the task (outside of its sample space) has label 0. */
export function meanAt(order, labels, task, depth) {
  const top = order.slice(0, depth);
  return top.reduce((sum, item) => sum + (labels[item]?.[task] ?? 0), 0) / top.length;
}

/** Return the exponents as lines of fusion.toml. */
export function asToml(names, exponents, title) {
  const key = (name) => (/^[\w-]+$/.test(name) ? name : JSON.stringify(name));
  const number = (x) => (Number.isInteger(x) && Math.abs(x) < 1e15 ? x.toFixed(1) : String(x));
  const tables = names.map((name) => {
    const header = name === "length" ? "[length]" : `[tasks.${key(name)}]`;
    return `${header}\nexponent = ${number(exponents[name])}\n`;
  });
  return `# ${title}\n${tables.join("\n")}`;
}

/** Return the request as a shell command, which takes a token from the environment. */
export function asCurl(origin, body, secured) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const token = secured ? ' -H "Authorization: Bearer $PLE_REC_TOKEN"' : "";
  return `curl -sS ${quoted(`${origin}/v1/rank`)} -H 'Content-Type: application/json'${token} -d ${quoted(JSON.stringify(body))}`;
}
