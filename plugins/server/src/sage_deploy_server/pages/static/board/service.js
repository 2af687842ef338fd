/** The screen of one service: its signals, slots, errors, configuration and actions. */

import { Actions } from "./actions.js";
import { Chart } from "./chart.js";
import { Latest } from "./lists.js";
import { useData } from "./live.js";
import { Empty, Failed, Rows, State, Stripes, ago, bytes, clock, fact, head, isKnown, millis, moment, moodOfEvent, moodOfRow, plain, share, to, whyOf, written } from "./parts.js";
import { html } from "../vendor/preact-htm.js";
import { t } from "./words.js";

const SPANS = { "15 min": 900, "1 h": 3600, "24 h": 86_400 };
const MARKED = /scaled|restart|recycl|failed|unhealthy|changed|adopted|loop|fenced|overload|requested/;

export function Service({ live, name, query, setQuery }) {
  const path = `/api/v1/services/${encodeURIComponent(name)}`;
  const { data: full, error } = useData(path, 2);
  const row = live.services.find((each) => each.name === name);
  if (!row) return html`<${Empty} text=${t("There is no service {name}. These run:", { name })} command=${live.services.map((each) => each.name).join("  ")} />`;
  const { text, since } = whyOf(row, live.events);
  const events = live.events.filter((each) => each.service === name);
  return html`
    <div class="head">
      <h1>${name}</h1>
      <${State} word=${row.state} mood=${moodOfRow(row)} />
      <span class="soft">${t("{n} of {all} replicas ready", { n: row.ready, all: row.replicas })}${row.wanted !== row.replicas && ` · ${t("{n} wanted", { n: row.wanted })}`} · ${t("generation")} ${row.generation}</span>
      ${row.held_by && html`<span class="badge warn">${t("held by {name}", { name: row.held_by })}</span>`}
      <${Actions} live=${live} row=${row} replicas=${full?.replicas} />
    </div>
    ${text && html`<p class=${`reason ${moodOfRow(row)}`}>${isKnown(since) && html`<b title=${moment(since)}>${t("for {time}", { time: ago(since) })}</b>`} <span>${text}</span></p>`}
    <dl class="facts-row">
      ${fact(t("Calls/s"), plain(row.rate))} ${fact(t("Calls"), plain(row.calls))}
      ${fact(t("Errors"), isKnown(row.error_rate) ? share(row.error_rate, row.rate) : plain(row.errors))}
      ${["p50", "p95", "p99"].map((each) => fact(each, row.calls ? millis(row[each]) : "–"))}
      ${fact(t("Queue"), `${plain(row.queue)}${isKnown(row.queue_capacity) ? ` / ${plain(row.queue_capacity)}` : ""}`)}
      ${fact(t("Slots"), `${plain(row.inflight)} / ${plain(row.slots)}`)}
      ${fact(t("Rejected"), plain(row.rejected))} ${fact(t("Abandoned"), row.abandoned || null)} ${fact(t("Restarts"), plain(row.restarts))}
    </dl>
    <${Failed} error=${error} />
    <${Charts} name=${name} events=${events} query=${query} setQuery=${setQuery} />
    <${Replicas} name=${name} row=${row} replicas=${full?.replicas} />
    <div class="columns">
      <${Errors} path=${path} />
      <${Latest} events=${events} all=${`#/events?service=${encodeURIComponent(name)}`} most=${8} />
    </div>
    <${Settings} key=${row.generation} path=${path} />
  `;
}

function Charts({ name, events, query, setQuery }) {
  const chosen = Object.hasOwn(SPANS, query.get("span")) ? query.get("span") : "15 min";
  const { data, error } = useData(`/api/v1/history?seconds=${SPANS[chosen]}&service=${encodeURIComponent(name)}`, chosen === "15 min" ? 2 : 15);
  if (!data && error) return null;
  const marks = data?.times.length
    ? events.filter((each) => MARKED.test(each.kind) && each.time >= data.times[0]).map((each) => ({ ...each, kind: t(each.kind.replaceAll("_", " ")), mood: moodOfEvent(each.kind) }))
    : [];
  const lines = (...names) => names.map((each) => ({ name: t(each.replace("_", " ")), values: data[each] }));
  return html`<section class="card">
    <header>
      <h2>${t("Signals")}</h2>
      <div class="choice" role="group" aria-label=${t("Time shown")}>
        ${Object.keys(SPANS).map((each) => html`<button key=${each} type="button" aria-pressed=${each === chosen} onClick=${() => setQuery({ span: each })}>${t(each)}</button>`)}
      </div>
    </header>
    <div class="charts">
      ${data?.times.length > 1
        ? html`
            <${Chart} title=${t("Calls per second")} times=${data.times} lines=${lines("rate", "error_rate")} marks=${marks} shown=${plain} />
            <${Chart} title=${t("Latency")} times=${data.times} lines=${lines("p50", "p95", "p99")} marks=${marks} shown=${millis} />
            <${Chart} title=${t("Saturation")} times=${data.times} lines=${lines("inflight", "slots", "queue")} marks=${marks} shown=${plain} />
          `
        : html`<p class="soft">${data ? t("Nothing is recorded yet; come back in some seconds.") : t("Loading ...")}</p>`}
    </div>
  </section>`;
}

function Replicas({ name, row, replicas }) {
  const stripes = new Map(row.stripes?.map((each) => [each[0], each]));
  const some = (field) => replicas?.some((each) => isKnown(each[field]));
  const [hasNode, hasCpu, hasMemory, hasSince] = ["node", "cpu", "memory", "since"].map(some);
  return html`<section class="card flush">
    <header><h2>${t("Replicas")}</h2></header>
    <table class="grid">
      ${head(t("State"), t("Replica"), t("Slots"), hasNode && t("Node"), [t("Process")], hasSince && [t("Runs for")], hasCpu && [t("Cores")], hasMemory && [t("Memory")])}
      <${Rows} rows=${replicas ?? []} columns=${8}>
        ${(each) => {
          const cell = (content, kind = "num") => html`<td class=${kind}>${content}</td>`;
          return html`<tr key=${each.id} class="row">
            <td class="first"><${State} word=${each.state} />${each.standby && ` ${t("standby")}`}</td>
            <td class="name"><a href=${to("services", name, each.id)}>${each.id}</a>${each.error && html`<span class="why" title=${each.error}>${each.error}</span>`}</td>
            ${cell(html`<${Stripes} stripes=${[stripes.get(each.id) ?? [each.id, each.state, each.slots, each.inflight, each.abandoned ?? 0]]} /> <span class="soft">${each.inflight}/${each.slots}</span>`, "wide")}
            ${hasNode && cell(each.node ?? "–", "")} ${cell(each.pid ?? "–")}
            ${hasSince && cell(ago(each.since))}
            ${hasCpu && cell(plain(each.cpu))} ${hasMemory && cell(bytes(each.memory))}
          </tr>`;
        }}
      <//>
    </table>
    ${replicas?.length === 0 && html`<${Empty} text=${t("It has no replica at the moment.")} />`}
  </section>`;
}

function Errors({ path }) {
  const { data } = useData(`${path}/errors`, 5);
  if (!data) return null;
  return html`<section class="card flush">
    <header><h2>${t("Errors")}</h2></header>
    ${data.length === 0 && html`<${Empty} text=${t("No call has failed.")} />`}
    ${data.map(
      (each) => html`<details key=${each.type} class="fault">
        <summary><b>${each.type}</b> <span class="badge bad">${plain(each.count)}</span> <span class="soft">${t("last {time}", { time: clock(each.time) })}</span><br /><span class="why">${each.message}</span></summary>
        <p class="soft">${each.method} ${each.request_id && html`· <a href=${`#/logs?q=${encodeURIComponent(each.request_id)}`}>${t("request")} ${each.request_id}</a>`}</p>
        ${each.traceback && html`<pre tabindex="0">${each.traceback}</pre>`}
      </details>`,
    )}
  </section>`;
}

function originOf({ source, path, line, variables }) {
  const place = path ? `${path.split("/").at(-1)}${line ? `:${line}` : ""}` : t(source);
  return variables?.length ? `${place} (${variables.join(", ")})` : place;
}

function Settings({ path }) {
  const plan = useData(`${path}/plan`).data;
  if (!plan?.settings) return null;
  const changes = Object.fromEntries(plan.changes.map((each) => [each.key, each]));
  const isChosen = (each) => each.origin.source !== "default" || each.key in changes;
  const chosen = plan.settings.filter(isChosen);
  const table = (settings) => html`<table class="grid plain">
    ${head(t("Setting"), t("Value"), t("From"))}
    <tbody>${settings.map(({ key, value, origin }) => {
      const change = changes[key];
      return html`<tr key=${key}><td><code>${key}</code></td><td><code>${written(change ? change.old : value)}</code></td><td class="soft" title=${origin.path}>${change ? t("changed by hand; an apply sets {value}", { value: written(change.new) }) : originOf(origin)}</td></tr>`;
    })}</tbody>
  </table>`;
  return html`<section class="card flush">
    <header><h2>${t("Configuration in force")}</h2></header>
    ${chosen.length > 0 ? table(chosen) : html`<${Empty} text=${t("Every setting has its default.")} />`}
    <details class="fault"><summary>${t("{n} settings with their defaults", { n: plan.settings.length - chosen.length })}</summary>${table(plan.settings.filter((each) => !isChosen(each)))}</details>
  </section>`;
}
