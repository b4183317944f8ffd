// Requests that users paste.

const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?/g;

/** Return the request of a text, with its items as rows; throws as JSON.parse does. Ids that rounding would change become texts, which the server accepts. */
export function parsed(text, signature) {
  const request = inRows(JSON.parse(text)), exact = rowsOf(inRows(JSON.parse(text.replace(TOKEN, whole))));
  const { user = [], items = [] } = signature ?? {};
  const ids = [...user, ...items].filter(({ type }) => type === "int").map(({ name }) => name);
  rowsOf(request).forEach((row, i) => {
    for (const name of ids) if (Object.hasOwn(row, name)) row[name] = exact[i][name];
  });
  return request;
}

/** Return a request of one item without any value, as text, to show the form of a request of this model. */
export function skeleton({ user, items }) {
  const values = (features) => Object.fromEntries(features.map(({ name }) => [name, null]));
  return JSON.stringify({ user: values(user), items: [values(items)] });
}

/** Return columns of equal length as rows, and anything else unchanged. */
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
