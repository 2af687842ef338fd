/** The screens of the plan, the installed plugins, and the doctor's findings. */

import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { isRecorded, post } from "../api.js";
import { Command } from "../method.js";
import { commandOf, follow } from "./actions.js";
import { useData } from "./live.js";
import { Empty, Failed, State, head, written } from "./parts.js";
import { t } from "./words.js";

const ACTIONS = { keep: "off", add: "good", change: "warn", remove: "bad" };

export function Plan({ live }) {
  const [plan, setPlan] = useState(null);
  const [error, setError] = useState(null);
  const [done, setDone] = useState(null);
  const changes = plan?.services.filter((each) => each.action !== "keep") ?? [];
  const mayChange = live.about && live.about.access !== "read";

  async function read() {
    setError(null);
    setDone(null);
    try {
      setPlan(await post("/api/v1/plan", {}));
    } catch (refused) {
      setPlan(null);
      setError(refused);
    }
  }

  useEffect(() => {
    if (mayChange) read();
  }, [mayChange]);

  async function apply() {
    setError(null);
    try {
      await follow(await post("/api/v1/apply", {}), setDone);
      setPlan(await post("/api/v1/plan", {}));
    } catch (refused) {
      setError(refused);
    }
  }

  return html`
    <div class="head"><h1>${t("Plan")}</h1>
      <div class="actions">
        ${mayChange && !isRecorded && html`<button type="button" onClick=${read} disabled=${live.link !== "live"}>${t("Read the files again")}</button>`}
        ${mayChange && !isRecorded && changes.length > 0 && html`<button type="button" class="main" onClick=${apply} disabled=${live.link !== "live" || done?.state === "running"}>${t(changes.length === 1 ? "Apply 1 change" : "Apply {n} changes", { n: changes.length })}</button>`}
      </div>
    </div>
    ${!isRecorded && html`<p class="soft">${t("Compares the files with the running services. Nothing changes before you apply it.")}</p>`}
    ${mayChange === false && html`<${Empty} text=${t("This login is read-only. With full access, run:")} command=${commandOf(live.about, "apply", "--dry-run")} />`}
    <${Failed} error=${error} />
    ${done && html`<p class="preview" role="status"><${State} word=${done.state} /> ${done.error?.detail}</p>`}
    ${plan && html`<section class="card flush">
      ${plan.services.map((each) => html`<${Planned} key=${each.name} of=${each} />`)}
      ${changes.length === 0 && html`<${Empty} text=${t("What runs is what the files say.")} />`}
    </section>`}
    ${plan && mayChange && html`<${Command} name=${t("command")} text=${commandOf(live.about, "apply")} />`}
  `;
}

function Planned({ of: service }) {
  const chosen = service.settings.filter((each) => each.origin.source !== "default");
  return html`<details class="fault" open=${service.action !== "keep"}>
    <summary><b>${service.name}</b> <${State} word=${service.action} mood=${ACTIONS[service.action] ?? "warn"} /></summary>
    ${service.changes.map(({ key, old, new: value }) => html`<p key=${key} class="change"><code>${key}</code> <del>${written(old)}</del> → <ins>${written(value)}</ins></p>`)}
    ${service.way && html`<p>${service.way}</p>`}
    ${service.warnings.map((each, at) => html`<p key=${at} class="reason warn"><span><code>${each.id} ${each.key}</code> ${each.message} ${each.fix}</span></p>`)}
    ${service.changes.length === 0 && chosen.map((each) => html`<p key=${each.key}><code>${each.key}: ${JSON.stringify(each.value)}</code></p>`)}
  </details>`;
}

export function Plugins() {
  const { data, error } = useData("/api/v1/plugins");
  const kinds = new Map();
  data?.plugins.forEach((each) => kinds.set(each.kind, [...(kinds.get(each.kind) ?? []), each]));
  return html`
    <h1>${t("Plugins")} ${data && html`<span class="soft">${data.plugins.length}</span>`}</h1>
    <${Failed} error=${error} />
    ${data?.failures?.map?.((each, at) => html`<p key=${at} class="reason bad"><span>${typeof each === "string" ? each : JSON.stringify(each)}</span></p>`)}
    ${[...kinds].map(
      ([kind, all]) => html`<section key=${kind} class="card flush">
        <header><h2>${t(kind)}</h2></header>
        <table class="grid plain">
          ${head("ID", t("What it does"), t("From"))}
          <tbody>${all.map((each) => html`<tr key=${each.id}><td><code>${each.id}</code></td><td>${each.summary}</td><td class="soft">${each.distribution} ${each.version}</td></tr>`)}</tbody>
        </table>
      </section>`,
    )}
  `;
}

const ORDER = ["failure", "warning"];
const MOODS = { ok: "good", warning: "warn" };

export function Doctor() {
  const { data, error, load } = useData("/api/v1/doctor");
  const rank = (each) => (ORDER.indexOf(each.status) + 1 || 9);
  const found = [...(data?.findings ?? [])].sort((one, other) => rank(one) - rank(other));
  const bad = found.filter((each) => each.status !== "ok").length;
  return html`
    <div class="head"><h1>${t("Doctor")}</h1>${data && html`<span class="soft">${bad ? t(bad === 1 ? "1 finding needs a look" : "{n} findings need a look", { n: bad }) : t("Everything is fine.")}</span>`}
      ${load && html`<div class="actions"><button type="button" onClick=${load}>${t("Look again")}</button></div>`}
    </div>
    <${Failed} error=${error} />
    ${data
      ? html`<section class="card flush"><ul class="findings">
          ${found.map((each, at) => html`<li key=${at}>
            <${State} word=${each.status} mood=${MOODS[each.status] ?? "bad"} /><b>${each.name}</b><span>${each.found}${each.fix && html`<br /><code>${each.fix}</code>`}</span>
          </li>`)}
        </ul></section>`
      : !error && html`<p class="empty">${t("Looking ...")}</p>`}
  `;
}
