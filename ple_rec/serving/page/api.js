// Client of the server's API. A request that has no valid answer throws an ApiError.

let token = "";

/** Error of a request that has no valid answer. */
export class ApiError extends Error {
  /** kind: "down" (no answer), "token" (status 401), "busy" (503) or "wrong" (any other); field: field of the request that is wrong; after: seconds of the header Retry-After. */
  constructor(kind, message, { field = "", after = null, status = 0 } = {}) {
    super(message);
    Object.assign(this, { kind, field, after, status });
  }
}

/** Keep the token in memory, and nowhere else, until the page is closed. */
export function useToken(text) {
  token = text;
}

/** Return true if the user has given a token, which the server then needs. */
export function secured() {
  return token !== "";
}

export const get = (path, signal) => ask(path, { signal });

export const post = (path, body, signal) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

async function ask(path, options) {
  const headers = { Accept: "application/json", ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  let response, text;
  try {
    response = await fetch(path, { ...options, headers });
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("down", "The server does not answer. Is it still running?");
  }
  let document_;
  try {
    document_ = JSON.parse(text);
  } catch {
    throw new ApiError("wrong", `The server's answer is not JSON (status ${response.status}).`, { status: response.status });
  }
  if (response.ok) return document_;
  const { field = "", value = "", message = response.statusText } = document_.error ?? {};
  const said = [field, value && `got ${value}`].filter(Boolean).join(": ");
  const kind = { 401: "token", 503: "busy" }[response.status] ?? "wrong";
  const after = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  const more = { field, status: response.status, after: Number.isNaN(after) ? null : after };
  throw new ApiError(kind, said ? `${said}; ${message}` : message, more);
}
