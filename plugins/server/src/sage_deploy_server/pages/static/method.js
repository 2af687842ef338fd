/** One method: its form, the call, and the equivalent commands. */

import { spoken, t } from "./board/words.js";
import { call } from "./api.js";
import { Fields } from "./fields.js";
import { bodyOf, formOf, jsonProblem } from "./form.js";
import { Outcome } from "./outcome.js";
import { commandOf, curlOf, isLoopback } from "./text.js";
import { html, useEffect, useMemo, useRef, useState } from "./vendor/preact-htm.js";

/** Maximum number of shown items of a stream: the latest. */
const MOST_ITEMS = 500;

/** The input for each method, restored when the user comes back. */
const remembered = new Map();

export function Method({ service, method, about }) {
  const id = `${service.name}/${method.name}`;
  const form = useMemo(() => formOf(method.arguments), [method, spoken()]);
  const [given, setGiven] = useState(() => remembered.get(id) ?? { values: {}, text: "", asText: form === null });
  const [options, setOptions] = useState({ timeout: "", key: "" });
  const [tried, setTried] = useState(false);
  const [outcome, setOutcome] = useState(null);
  const running = useRef(null);

  useEffect(() => () => running.current?.abort(), []); // leaving the screen ends the call
  const change = (more) => {
    const now = { ...given, ...more };
    remembered.set(id, now);
    setGiven(now);
  };

  const made = given.asText ? ofText(given.text) : bodyOf(form.fields, given.values);
  const isWrong = Object.keys(made.problems).length > 0;
  const mayCall = about.access !== "read";
  const isRunning = outcome?.state === "running";
  const request = { service: service.name, method: method.name, body: made.body, ...options };

  async function send(event) {
    event.preventDefault();
    setTried(true);
    if (isWrong || isRunning || !mayCall) return;
    const controller = new AbortController();
    running.current = controller;
    let items = { count: 0, latest: [] };
    let known = { state: "running", streams: method.streams };
    let frame = 0;
    const show = () => {
      cancelAnimationFrame(frame);
      frame = 0;
      if (running.current === controller) setOutcome({ ...known, items });
    };
    const later = () => {
      frame ||= requestAnimationFrame(show); // one drawing for all items that have arrived
    };
    show();
    const began = performance.now();
    try {
      const ended = await call(request, {
        signal: controller.signal,
        onHead: (head) => {
          known = { ...known, ...head };
          later();
        },
        onItem: (line) => {
          items = { count: items.count + 1, latest: [...items.latest.slice(1 - MOST_ITEMS), line] };
          later();
        },
      });
      known = { ...known, ...ended, state: "ended" };
    } catch (error) {
      const state = controller.signal.aborted ? "stopped" : "lost";
      known = { ...known, state, error: error.message, ms: performance.now() - began };
    }
    show();
  }

  return html`
    <article>
      <h2 class="title">
        <span class="word">${service.name}.<wbr />${method.name}</span>
        ${method.streams && html`<span class="badge">${t("stream")}</span>`}
      </h2>
      ${method.description && html`<p class="docs">${method.description}</p>`}
      <form class="sheet" onSubmit=${send} onKeyDown=${(event) => event.ctrlKey && event.key === "Enter" && send(event)} novalidate>
        <${Arguments} form=${form} given=${given} change=${change} body=${made.body} problems=${tried ? made.problems : {}} />
        <${Options} options=${options} setOptions=${setOptions} />
        <p class="actions">
          <button type="submit" class="main" disabled=${!mayCall || isRunning}>
            ${t(mayCall ? "Call" : "This login may only look, not call")}
          </button>
          ${isRunning && html`<button type="button" onClick=${() => running.current?.abort()}>${t("Stop")}</button>`}
          ${mayCall && html`<span class="hint"><kbd>Ctrl</kbd> <kbd>Enter</kbd> ${t("calls, too")}</span>`}
        </p>
      </form>
      ${outcome && html`<${Outcome} outcome=${outcome} />`}
      <${Commands} request=${request} streams=${method.streams} environment=${about.name} isWrong=${isWrong} />
      <details>
        <summary>${t("Schemas of arguments and result")}</summary>
        <pre>${JSON.stringify({ arguments: method.arguments, result: method.result }, null, 2)}</pre>
      </details>
    </article>
  `;
}

function ofText(text) {
  const problem = text.trim() === "" ? "" : jsonProblem(text);
  return { body: text.trim(), problems: problem ? { body: problem } : {} };
}

function Arguments({ form, given, change, body, problems }) {
  if (given.asText) {
    return html`
      <label class="field">
        <span class="label">${t("Body")} <span class="hint">${t("JSON: an object with the arguments by name, or an array")}</span></span>
        <textarea rows="6" spellcheck="false" value=${given.text} onInput=${(event) => change({ text: event.target.value })} />
        ${problems.body && html`<span class="problem" role="alert">${problems.body}</span>`}
      </label>
      ${form && html`<button type="button" class="link" onClick=${() => change({ asText: false })}>${t("Use the form")}</button>`}
    `;
  }
  return html`
    ${form.fields.length === 0 && !form.more && html`<p class="hint">${t("It takes no arguments.")}</p>`}
    <${Fields} fields=${form.fields} values=${given.values} problems=${problems} setValues=${(values) => change({ values })} />
    ${(form.fields.length > 0 || form.more) &&
    html`<button type="button" class="link" onClick=${() => change({ asText: true, text: body })}>
      ${t(form.more ? "Edit the body as JSON, for further arguments" : "Edit the body as JSON")}
    </button>`}
  `;
}

function Options({ options, setOptions }) {
  const field = (name, label, hint) => html`
    <label class="field">
      <span class="label">${label} <span class="hint">${hint}</span></span>
      <input value=${options[name]} onInput=${(event) => setOptions({ ...options, [name]: event.target.value.trim() })} />
    </label>
  `;
  return html`
    <details class="options">
      <summary>${t("Options of the call")}</summary>
      <div class="row">
        ${field("timeout", t("Timeout"), t("seconds"))} ${field("key", t("Key"), t("calls with equal keys go to the same replica"))}
      </div>
    </details>
  `;
}

function Commands({ request, streams, environment, isWrong }) {
  const url = isLoopback(location.hostname) ? "" : location.origin;
  return html`
    <section class="sheet commands" aria-label=${t("The same from a terminal")}>
      ${isWrong
        ? html`<p class="hint">${t("Once the arguments are complete, the commands that make this call stand here.")}</p>`
        : html`
            <${Command} name="sage-deploy call" text=${commandOf(request, environment, url)} />
            <${Command} name="curl" text=${curlOf(request, streams, location.origin)} />
          `}
    </section>
  `;
}

export function Command({ name, text }) {
  const [copied, setCopied] = useState("");
  const shown = useRef(null);
  async function copy() {
    try {
      await navigator.clipboard.writeText(text);
      setCopied(text);
    } catch {
      getSelection().selectAllChildren(shown.current); // no permission, or no https: the user copies the selection
    }
  }
  return html`
    <div class="command">
      <pre ref=${shown} tabindex="0" aria-label=${name}>${text}</pre>
      <button type="button" onClick=${copy}>${copied === text ? t("Copied") : t("Copy as {name}", { name })}</button>
    </div>
  `;
}
