// Before the frame: first set-up, login, second factor, one-time links, choosing a password.

import { get, post, setSession } from "./api.js";
import { busy } from "./dialogs.js";
import { h, text } from "./dom.js";

const app = () => document.getElementById("app");

function card(title, words, ...rest) {
  document.title = `${title} · Longshore`;
  const element = h("main.gate", {}, h("div.gate-card", {}, h("img", { src: "/icon.svg", alt: "", width: 40, height: 40 }), h("h1", {}, title), h("p", {}, words), ...rest));
  app().className = "bare";
  app().replaceChildren(element);
  element.querySelector("input:not([readonly], [value]), .button")?.focus();
}

function field(label, properties, help) {
  const input = h("input", { required: true, ...properties });
  const wrong = h("p.wrong", { role: "alert" });
  const element = h("div.field", {}, h("label", {}, label, input), help && h("p.help", {}, help), wrong);
  return { input, wrong, element };
}

/** A form whose refusals are told at their field, or below the last one. What was typed stays. */
function form(fields, button, act) {
  const go = h("button.button.primary", {}, button);
  const names = Object.keys(fields);
  return h("form.stack.tight", {
    noValidate: true,
    onsubmit: (event) => {
      event.preventDefault();
      const values = {};
      let first = null;
      for (const name of names) {
        const { input, wrong } = fields[name];
        values[name] = input.value;
        const fault = !input.value ? "This is needed." : input.minLength > 0 && input.value.length < input.minLength ? `At least ${input.minLength} characters.` : "";
        text(wrong, fault);
        input.setAttribute("aria-invalid", String(Boolean(fault)));
        if (fault) first ??= input;
      }
      if (first) return first.focus();
      busy(go, () => act(values), (refused) => {
        const at = fields[refused.field] ?? fields[names.at(-1)];
        text(at.wrong, refused.message);
        at.input.setAttribute("aria-invalid", "true");
        at.input.focus();
        at.input.select();
      });
    },
  }, names.map((name) => fields[name].element), h("div.buttons", {}, go));
}

const NAME = { name: "username", autocomplete: "username", autocapitalize: "none", spellcheck: false, maxLength: 64 };

function setup(token, version) {
  if (!token) {
    return card("Set up Longshore", "This Panel has no user yet. It has printed a one-time link on its terminal and in its log: open that link to make the first admin.",
      h("p.soft.small", {}, "The link ends with ", h("code", {}, "/setup#…"), ". It is gone? Start the Panel again and it prints a new one."),
      h("div.buttons", {}, h("button.button", { type: "button", onclick: () => location.reload() }, "I have it, look again")));
  }
  const fields = {
    name: field("Your name", NAME, "You log in with it."),
    password: field("Password", { type: "password", autocomplete: "new-password", minLength: 10, maxLength: 256 }, "At least 10 characters. A few unrelated words are good."),
  };
  card("Welcome to Longshore", "Make the first admin. Everything else can be done from the page afterwards.",
    form(fields, "Create admin", async ({ name, password }) => enter(await post("/setup", { token, name, password }))), h("p.gate-foot", {}, `Version ${version}`));
}

function login(words = "Log in to see your servers.") {
  const fields = {
    name: field("Name", NAME),
    password: field("Password", { type: "password", autocomplete: "current-password", maxLength: 256 }),
  };
  card("Log in", words, form(fields, "Log in", async (values) => {
    try {
      enter(await post("/session", values));
    } catch (refused) {
      if (refused.code !== "TOTP_NEEDED") throw refused;
      secondFactor(values);
    }
  }));
}

function secondFactor(values) {
  const fields = { code: field("Code", { inputMode: "numeric", autocomplete: "one-time-code", maxLength: 32 }, "Six digits from your app, or one of your recovery codes.") };
  card("One more step", "This account asks for a code besides the password.",
    form(fields, "Continue", async ({ code }) => enter(await post("/session", { ...values, code: code.replace(/\s/g, "") }))),
    h("p.gate-foot", {}, h("button.linkish", { type: "button", onclick: () => login() }, "Use another account")));
}

function choosePassword(session) {
  const fields = { new: field("New password", { type: "password", autocomplete: "new-password", minLength: 10, maxLength: 256 }, "At least 10 characters.") };
  card(`Welcome, ${session.user.name}`, "Choose a password. Next time you log in with your name and it.", form(fields, "Save and go on", async ({ new: password }) => {
    setSession(session);
    await post("/account/password", { new: password });
    enter({ ...session, mustSetPassword: false });
  }));
}

let entered = () => {};

function enter(session) {
  if (session.mustSetPassword) return choosePassword(session);
  entered(session);
}

/** Shows what stands before the frame; `done(session)` is called once somebody is in. */
export async function show(done, words) {
  entered = done;
  const { pathname, hash } = location;
  const token = hash.slice(1);
  // Out of the address at once: it must not stay in the history.
  if (token && (pathname === "/setup" || pathname === "/login")) history.replaceState(null, "", pathname);
  try {
    if (pathname === "/login" && token) {
      return enter(await post("/session", { link: token }));
    }
    const { needed, version } = await get("/setup");
    if (needed) return setup(token, version);
    login(words);
  } catch (refused) {
    if (refused.code === "LINK_INVALID") return login("This link has been used or is too old. Log in with your password, or ask for a new link.");
    card("The Panel does not answer", refused.message, h("div.buttons", {}, h("button.button.primary", { type: "button", onclick: () => location.reload() }, "Try again")));
  }
}
