// Messages about missing data and errors, with a way to continue.

import { secured, useToken } from "./api.js";
import { at, make } from "./dom.js";

let timer = 0;

/** Hide all messages. */
export function clear() {
  clearInterval(timer);
  at("notice").hidden = true;
  at("notice").replaceChildren();
}

/** Show an error; `again` repeats the action that failed. */
export function tell(error, again) {
  clear();
  if (error.kind === "token") return askToken(again);
  if (error.kind === "busy") return wait(error, again);
  const title = error.kind === "down" ? error.message : `The server refused the request${error.status ? ` (${error.status})` : ""}.`;
  const retry = make("button", { type: "button", text: "Try again" });
  retry.addEventListener("click", () => { clear(); again(); });
  show(title, error.kind === "down" ? [retry] : [make("span", { text: `${error.message} ` }), retry]);
}

/** Show a message that is no error. */
export function note(title, text) {
  clear();
  show(title, [make("span", { text })]);
}

function show(title, children) {
  at("notice").replaceChildren(make("p", { text: title }), ...children);
  at("notice").hidden = false;
}

function wait(error, again) {
  let left = Math.min(60, Math.max(1, error.after ?? 1));
  const count = make("span", { "aria-hidden": true });
  const retry = make("button", { type: "button", text: "Try now" });
  const go = () => { clear(); again(); };
  const tick = () => {
    count.textContent = `The request is repeated in ${left} s. `;
    if (left-- <= 0) go();
  };
  retry.addEventListener("click", go);
  show("The server is busy or is being stopped.", [count, retry]);
  tick();
  timer = setInterval(tick, 1000);
}

function askToken(again) {
  const field = make("input", { type: "password", id: "token", autocomplete: "off", required: true });
  const form = make("form", { class: "token" }, make("label", { for: "token", text: "Token" }), field, make("button", { text: "Go on" }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    useToken(field.value.trim());
    clear();
    again();
  });
  show(secured() ? "That is not the server's token." : "The server asks for its token.", [form]);
  field.focus();
}
