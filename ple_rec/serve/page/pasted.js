// Requests that people paste.

const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?/g;

/** A text's request; throws as JSON.parse does. Ids that would be rounded as numbers are texts, which the server takes as well. */
export function parsed(text, signature) {
  const request = JSON.parse(text), exact = rowsOf(JSON.parse(text.replace(TOKEN, whole)));
  const { user = [], items = [] } = signature ?? {};
  const ids = [...user, ...items].filter(({ type }) => type === "int").map(({ name }) => name);
  rowsOf(request).forEach((row, i) => {
    for (const name of ids) if (Object.hasOwn(row, name)) row[name] = exact[i][name];
  });
  return request;
}

function whole(token) {
  return /^-?\d+$/.test(token) && !Number.isSafeInteger(Number(token)) ? `"${token}"` : token;
}

function rowsOf(request) {
  return [request?.user, ...(Array.isArray(request?.items) ? request.items : [])].map((row) => Object(row));
}
