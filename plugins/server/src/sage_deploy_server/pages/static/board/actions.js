/** Changes of a service: preview, confirmation, progress, and the equivalent command. */

import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { get, post } from "../api.js";
import { Command } from "../method.js";
import { isLoopback, quoted } from "../text.js";
import { useData } from "./live.js";
import { Failed, State } from "./parts.js";
import { t } from "./words.js";

const WAIT_S = 10;

/** Follow a change to its end. `shown` gets each of its states. */
export async function follow(begun, shown) {
  let now = begun;
  while (now.state === "running") {
    shown(now);
    now = await get(`/api/v1/operations/${begun.id}?wait=${WAIT_S}`);
  }
  shown(now);
}

/** A command for the environment that is shown. */
export function commandOf(about, words, ...more) {
  const where = isLoopback(location.hostname) ? `-e ${quoted(about?.name ?? "")}` : `--url ${quoted(location.origin)}`;
  return ["sage-deploy", words, where, ...more.map((each) => quoted(String(each)))].join(" ");
}

const KINDS = ["scale", "restart", "drain", "balancer"];

/** `only`: ID of the replica, on the screen of one replica. */
export function Actions({ live, row, replicas, only }) {
  const [kind, setKind] = useState(null);
  if (!live.about || live.about.access === "read" || isHeld(row)) return null;
  return html`<div class="actions">
    ${(only ? ["restart"] : KINDS).map((each) => html`<button key=${each} type="button" onClick=${() => setKind(each)} disabled=${live.link !== "live"}>${t(NAMES[each])}</button>`)}
    ${kind && html`<${Change} kind=${kind} live=${live} row=${row} replicas=${replicas ?? []} only=${only} onClose=${() => setKind(null)} />`}
  </div>`;
}

const isHeld = (row) => row.held_by != null;
const NAMES = { scale: "Scale", restart: "Restart", drain: "Drain", balancer: "Balancer" };

function Change({ kind, live, row, replicas, only, onClose }) {
  const window = useRef(null);
  const [given, setGiven] = useState(() => ({ scale: row.replicas || 1, restart: only ?? "", drain: "", balancer: "" })[kind]);
  const [preview, setPreview] = useState(null);
  const [error, setError] = useState(null);
  const [done, setDone] = useState(null);
  const [generation] = useState(row.generation); // the generation that the user saw
  const path = `/api/v1/services/${encodeURIComponent(row.name)}/${kind}`;
  const body = bodyOf(kind, given);
  const asked = JSON.stringify(body);

  useEffect(() => window.current.showModal(), []);
  useEffect(() => {
    setPreview(null);
    setError(null);
    if (!body) return undefined;
    let isOver = false;
    post(`${path}?dry_run=1`, body).then(
      (said) => isOver || setPreview(said),
      (refused) => isOver || setError(refused),
    );
    return () => {
      isOver = true;
    };
  }, [path, asked]);

  async function confirm(event) {
    event.preventDefault();
    setError(null);
    try {
      await follow(await post(path, body, { "If-Match": `"${generation}"` }), setDone);
    } catch (refused) {
      setError(refused);
      setDone(null);
    }
  }

  return html`<dialog ref=${window} class="card" onClose=${onClose} aria-labelledby="change">
    <form onSubmit=${confirm}>
      <h2 id="change">${t(NAMES[kind])}: ${row.name}</h2>
      <${Field} kind=${kind} given=${given} setGiven=${setGiven} replicas=${replicas} isFixed=${!!done} />
      ${done === null
        ? html`<p class="preview" aria-live="polite">${preview ? said(kind, preview, row) : error || !body ? "" : t("Asking what would happen ...")}</p>`
        : html`<p class="preview" role="status"><${State} word=${done.state} /> ${done.error?.detail}</p>`}
      <${Failed} error=${error} />
      ${body && html`<${Command} name=${t("command")} text=${commandOf(live.about, kind, ...wordsOf(kind, row, given))} />`}
      <p class="actions">
        ${!done && html`<button type="submit" class="main" disabled=${!preview}>${t(NAMES[kind])}</button>`}
        <button type="button" onClick=${() => window.current.close()}>${t(done ? "Close" : "Cancel")}</button>
      </p>
    </form>
  </dialog>`;
}

function bodyOf(kind, given) {
  if (kind === "scale") return /^[1-9]\d{0,5}$/.test(given) ? { replicas: Number(given) } : null;
  if (kind === "restart") return given ? { replica: given } : {};
  if (kind === "drain") return given === "" ? {} : Number(given) >= 0 ? { timeout: Number(given) } : null;
  return given ? { id: given } : null;
}

function wordsOf(kind, row, given) {
  if (kind === "scale") return [row.name, given];
  if (kind === "balancer") return [row.name, given];
  if (kind === "restart") return given ? ["--replica", given, row.name] : [row.name];
  return given === "" ? [row.name] : ["--timeout", given, row.name];
}

function Field({ kind, given, setGiven, replicas, isFixed }) {
  const plugins = useData(kind === "balancer" ? "/api/v1/plugins" : null).data?.plugins ?? [];
  const onInput = (event) => setGiven(event.target.value);
  const label = { scale: t("Replicas"), restart: t("Replica"), drain: t("Timeout in seconds"), balancer: t("Load balancer") }[kind];
  const choices = kind === "restart" ? replicas.map((each) => each.id) : plugins.filter((each) => each.kind === "load balancer").map((each) => each.id);
  const field =
    kind === "scale" || kind === "drain"
      ? html`<input type="number" min=${kind === "scale" ? 1 : 0} step=${kind === "scale" ? 1 : "any"} value=${given} onInput=${onInput} disabled=${isFixed} placeholder=${t("as configured")} />`
      : html`<select value=${given} onChange=${onInput} disabled=${isFixed}>
          <option value="">${kind === "restart" ? t("All, one after the other") : t("Choose")}</option>
          ${choices.map((each) => html`<option key=${each} value=${each}>${each}</option>`)}
        </select>`;
  return html`<label class="field"><span class="label">${label}</span>${field}</label>`;
}

/** Describe a preview in words. */
function said(kind, { before, replicas, balancer, timeout }, row) {
  if (kind === "scale") return before === replicas ? t("Nothing would change.") : t("{before} replicas now, {after} afterwards.", { before, after: replicas });
  if (kind === "restart") return t("New replicas take the place of {names}. No call is lost.", { names: replicas.join(", ") });
  if (kind === "drain") return t("{name} finishes what it has accepted, and stops. It takes no more calls.", { name: row.name }) + (timeout === null ? "" : ` ${t("It gets {n} seconds.", { n: timeout })}`);
  return t("{name} would choose replicas from then on.", { name: balancer });
}
