// The door: who comes in. A guest says a name; who has an account signs in to it, or registers. The session is a cookie
// that scripts cannot read, so whether there is one only an attempt to connect can tell.

import { Client } from "./client.js";
import { isName } from "./names.js";
import { say } from "./words.js";

const PASSWORD = { shortest: 8, longest: 256 }; // characters (chat/accounts.py)
const PATIENCE = 700; // ms that may pass before a form is shown
const WHY = { 0: "away", 401: "wrongPassword", 403: "registrationClosed", 409: "nameTaken", 429: "tooOften" };

const $ = (id) => document.getElementById(id);

/** Show what is wrong with an input, or nothing. */
export function complain(id, text) {
  $(id).textContent = text;
  $(id).hidden = text === "";
}

/** Ask the HTTP side; the status, 0 if no answer came, and what it says. */
async function ask(method, path, body) {
  const headers = body && { "content-type": "application/json" };
  try {
    const reply = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
    return { status: reply.status, said: reply.status === 204 ? {} : await reply.json() };
  } catch {
    return { status: 0, said: {} };
  }
}

/** End the session: its cookie goes and its token is shut out. */
export const signOut = () => ask("DELETE", "api/session");

/** The page to ask a name on. `onEnter(name)` is called with somebody who may come in as far as we know. */
export class Door {
  #guests = true; // whether they are let in; until we know better
  #signingIn = false;
  #asking = false; // somebody is to come in
  #probe = null;
  #cleared = null; // until this is over a new cookie would be lost with the old one

  constructor(url, onEnter) {
    Object.assign(this, { url, onEnter });
    $("name-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit(event.submitter?.id === "register" ? "api/accounts" : "api/session");
    });
    $("other-way").addEventListener("click", () => this.#draw(!this.#signingIn));
    addEventListener("focus", () => this.#asking && !this.#probe && this.#look()); // back from a tab that signed in
  }

  /** Nobody is here yet: ask for a name, unless a cookie knows one. */
  async open(name = "") {
    this.#asking = $("chat").hidden = true;
    const late = new Promise((resolve) => setTimeout(resolve, PATIENCE));
    await Promise.race([this.#look(), late]); // rather than a form that turns into another one
    if (!this.#asking) return;
    if (this.#guests) this.#show(name, false);
    else this.refused(name);
  }

  /** The server wants to know better who `name` is; `why` names what to say about it. */
  async refused(name, why = "") {
    this.#asking = true;
    this.#show(name, true, why && say(why));
    const refused = await this.#look(); // another tab may have signed in meanwhile, and then its cookie lets us in
    if (refused && !$("welcome").ariaBusy) {
      this.#cleared = signOut(); // a cookie that no longer opens must not stand in a guest's way
      await this.#cleared;
      await this.#look();
    }
    const taken = this.#guests && this.#signingIn && name && !why;
    if (taken && this.#asking) complain("name-error", say("hasAccount"));
  }

  /** Knock without a name: a cookie lets us in; else we hear whether guests are. Whether we were refused. */
  #look() {
    this.#probe?.close();
    return new Promise((resolve) => {
      const probe = (this.#probe = new Client(this.url, "", (state) => {
        if (probe !== this.#probe || (state !== "connected" && state !== "refused")) return;
        const { guest, user, unauthorized } = probe;
        this.#probe = null;
        probe.close();
        if (state === "connected" && !guest) this.#enter(user);
        else {
          const news = this.#guests === unauthorized;
          this.#guests = !unauthorized;
          if (news && !$("welcome").hidden) this.#draw(this.#signingIn || unauthorized);
        }
        resolve(unauthorized);
      }));
      probe.open();
    });
  }

  #show(name, signingIn, why = "") {
    $("chat").hidden = true;
    $("welcome").hidden = false;
    $("name").value = name;
    $("password").value = "";
    this.#draw(signingIn);
    complain("name-error", why);
  }

  #draw(signingIn) {
    this.#signingIn = signingIn;
    for (const id of ["password-label", "password", "register"]) $(id).hidden = !signingIn;
    $("other-way").hidden = signingIn && !this.#guests;
    $("other-way").textContent = say(signingIn ? "asGuest" : "withAccount");
    $("name-label").textContent = say(signingIn ? "name" : "askName");
    $("enter").textContent = say(signingIn ? "signIn" : "enter");
    complain("name-error", "");
    $(signingIn && $("name").value ? "password" : "name").focus();
  }

  async #submit(path) {
    if ($("welcome").ariaBusy) return;
    const username = $("name").value.trim().normalize();
    const password = $("password").value;
    if (!isName(username)) return complain("name-error", say("nameRule"));
    if (!this.#signingIn) return this.#enter(username);
    if (password.length < PASSWORD.shortest || password.length > PASSWORD.longest) {
      return complain("name-error", say("passwordRule"));
    }
    $("welcome").ariaBusy = true;
    await this.#cleared;
    const { status, said } = await ask("POST", path, { username, password });
    $("welcome").ariaBusy = null;
    if (status === 201) this.#enter(said.user);
    else complain("name-error", status in WHY ? say(WHY[status]) : (said.error?.message ?? say("away")));
  }

  #enter(name) {
    if (!this.#asking) return; // a cookie was quicker
    this.#asking = false;
    this.#probe?.close();
    this.#probe = null;
    $("password").value = "";
    $("welcome").hidden = true;
    $("chat").hidden = false;
    this.onEnter(name);
  }
}
