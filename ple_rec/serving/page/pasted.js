// Requests that people paste.

const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?/g;

/** A text's request, its items as rows; throws as JSON.parse does. Ids that would be rounded as numbers are texts, which the server takes as well. */
export function parsed(text, signature) {
  const request = inRows(JSON.parse(text)), exact = rowsOf(inRows(JSON.parse(text.replace(TOKEN, whole))));
  const { user = [], items = [] } = signature ?? {};
  const ids = [...user, ...items].filter(({ type }) => type === "int").map(({ name }) => name);
  rowsOf(request).forEach((row, i) => {
    for (const name of ids) if (Object.hasOwn(row, name)) row[name] = exact[i][name];
  });
  return request;
}

/** A request of one item in which every value is missing, as text: what a request of this model looks like. */
export function skeleton({ user, items }) {
  const values = (features) => Object.fromEntries(features.map(({ name }) => [name, null]));
  return JSON.stringify({ user: values(user), items: [values(items)] });
}

/** Columns of one length as rows; anything else as it is. */
function inRows(request) {
  const items = request?.items;
  if (Array.isArray(items)) return request;
  const columns = Object.entries(Object(items)), count = columns[0]?.[1]?.length;
  if (!columns.length || !columns.every(([, values]) => Array.isArray(values) && values.length === count)) return request;
  const rows = Array.from({ length: count }, (_, i) => Object.fromEntries(columns.map(([name, values]) => [name, values[i]])));
  return { ...request, items: rows };
}

function whole(token) {
  return /^-?\d+$/.test(token) && !Number.isSafeInteger(Number(token)) ? `"${token}"` : token;
}

function rowsOf(request) {
  return [request?.user, ...(Array.isArray(request?.items) ? request.items : [])].map((row) => Object(row));
}
