// Requests that users paste into the page as JSON.

const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?/g;

/** Return the request of a JSON text, with its items as rows; throws as JSON.parse does. Integer ids that JavaScript would round become texts, which the server accepts. */
export function parsed(text, signature) {
  const request = inRows(JSON.parse(text)), exact = rowsOf(inRows(JSON.parse(text.replace(TOKEN, whole))));
  const { user = [], items = [] } = signature ?? {};
  const ids = [...user, ...items].filter(({ type }) => type === "int").map(({ name }) => name);
  rowsOf(request).forEach((row, i) => {
    for (const name of ids) if (Object.hasOwn(row, name)) row[name] = exact[i][name];
  });
  return request;
}

/** Return, as text, a request of one item whose values are all null, to show the form of a request to this model. */
export function skeleton({ user, items }) {
  const values = (features) => Object.fromEntries(features.map(({ name }) => [name, null]));
  return JSON.stringify({ user: values(user), items: [values(items)] });
}

/** Return the request with its items as rows if they are columns of equal length; otherwise return it unchanged. */
function inRows(request) {
  const items = request?.items;
  if (Array.isArray(items)) return request;
  const columns = Object.entries(Object(items)), count = columns[0]?.[1]?.length;
  if (!columns.length || !columns.every(([, values]) => Array.isArray(values) && values.length === count)) return request;
  const rows = Array.from({ length: count }, (_, i) => Object.fromEntries(columns.map(([name, values]) => [name, values[i]])));
  return { ...request, items: rows };
}

/** Return a token of JSON, with quotes added if it is an integer that JavaScript would round. */
function whole(token) {
  return /^-?\d+$/.test(token) && !Number.isSafeInteger(Number(token)) ? `"${token}"` : token;
}

/** Return the user and the items of a request as one list of objects. */
function rowsOf(request) {
  return [request?.user, ...(Array.isArray(request?.items) ? request.items : [])].map((row) => Object(row));
}
