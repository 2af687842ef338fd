/** The first screen: is everything healthy? If not, which service is not, and why? */

import { Spark } from "./chart.js";
import { Latest } from "./lists.js";
import { useData } from "./live.js";
import { Empty, Meter, Rows, Shape, State, Stripes, ago, fact, head, isKnown, millis, moment, moodOfRow, plain, rankOf, share, to, whyOf } from "./parts.js";
import { html } from "../vendor/preact-htm.js";
import { t } from "./words.js";

const MOST_REASONS = 4;

export function Overview({ live, query, setQuery }) {
  const history = useData("/api/v1/history?seconds=900", 5).data;
  const services = [...live.services].sort((one, other) => rankOf(one) - rankOf(other) || one.name.localeCompare(other.name));
  const wanted = (query.get("q") ?? "").toLowerCase();
  const shown = services.filter((row) => `${row.name} ${row.state}`.toLowerCase().includes(wanted));
  if (services.length === 0) return html`<${Empty} text=${t("No service runs. Deploy some:")} command="sage-deploy up FILE" />`;
  return html`
    <${Health} services=${services} events=${live.events} />
    <${Signals} services=${services} history=${history} />
    <section class="card flush">
      <header>
        <h2>${t("Services")} <span class="soft">${shown.length === services.length ? services.length : `${shown.length} / ${services.length}`}</span></h2>
        <input type="search" data-find placeholder=${t("Find (press /)")} aria-label=${t("Find a service")} value=${query.get("q") ?? ""} onInput=${(event) => setQuery({ q: event.target.value })} />
      </header>
      <${Table} services=${shown} events=${live.events} />
      ${shown.length === 0 && html`<${Empty} text=${t("No service has that in its name or state.")} />`}
    </section>
    <${Latest} title=${t("Latest events")} events=${live.events} all="#/events" most=${10} />
  `;
}

function Health({ services, events }) {
  const ill = services.filter((row) => moodOfRow(row) !== "good");
  const mood = ill.length ? moodOfRow(ill[0]) : "good";
  const text =
    ill.length === 0
      ? t(services.length === 1 ? "The service is ready" : "All {n} services are ready", { n: services.length })
      : t("{n} of {all} services not fully ready", { n: ill.length, all: services.length });
  return html`<section class=${`health ${mood}`} role="status">
    <${Shape} mood=${mood} />
    <div>
      <h1>${text}</h1>
      ${ill.slice(0, MOST_REASONS).map((row) => {
        const { text, since } = whyOf(row, events);
        return html`<p key=${row.name}>
          <a href=${to("services", row.name)}>${row.name}</a> ${t(row.state)}, ${t("{n} of {all} replicas ready", { n: row.ready, all: row.replicas })}${isKnown(since) && html`, <span title=${moment(since)}>${t("for {time}", { time: ago(since) })}</span>`}${text && html`: <span class="why">${text}</span>`}
        </p>`;
      })}
      ${ill.length > MOST_REASONS && html`<p>${t("and {n} more, first in the list below", { n: ill.length - MOST_REASONS })}</p>`}
    </div>
  </section>`;
}

/** The sum of the known values. */
function sum(rows, name) {
  const found = rows.map((row) => row[name]).filter(isKnown);
  return found.length ? found.reduce((one, other) => one + other, 0) : undefined;
}

function Signals({ services, history }) {
  const [rate, errors, busy, slots, queue, room] = ["rate", "error_rate", "inflight", "slots", "queue", "queue_capacity"].map((name) => sum(services, name));
  const now = (name) => history?.[name].slice(-15).findLast(isKnown);
  const slowest = services.reduce((one, other) => ((other.p99 ?? 0) > (one.p99 ?? 0) ? other : one));
  const isOfAll = isKnown(now("p99"));
  return html`<section class="signals" aria-label=${t("Golden signals")}>
    <div class="card signal">
      <h3>${t("Calls")}</h3>
      <p class="big">${plain(isKnown(rate) ? Math.round(rate * 10) / 10 : rate)} <small>${t("per second")}</small></p>
      <${Spark} values=${history?.rate} />
    </div>
    <div class=${`card signal ${errors > 0 ? "ill" : ""}`}>
      <h3>${t("Errors")}</h3>
      <p class="big">${share(errors, rate)} <small>${t("{n} per second", { n: plain(errors) })}</small></p>
      <${Spark} values=${history?.error_rate} />
    </div>
    <div class="card signal">
      <h3>${t("Latency")} ${!isOfAll && slowest.calls > 0 && html`<small>${t("slowest: {name}", { name: slowest.name })}</small>`}</h3>
      <dl class="three">${["p50", "p95", "p99"].map((name) => fact(name, millis(isOfAll ? now(name) : slowest.calls ? slowest[name] : null)))}</dl>
      <${Spark} values=${history?.p95} />
    </div>
    <div class=${`card signal ${slots > 0 && busy >= slots ? "ill" : ""}`}>
      <h3>${t("Saturation")}</h3>
      <p class="big">${share(busy, slots)} <small>${t("{n} of {all} slots", { n: plain(busy), all: plain(slots) })}</small></p>
      <${Meter} part=${busy} whole=${slots} />
      <p class="soft">${t("queue")} ${plain(queue)} / ${plain(room)}</p>
    </div>
  </section>`;
}

function Table({ services, events }) {
  const cell = (label, content, kind = "num") => html`<td class=${kind} data-label=${label}>${content}</td>`;
  return html`<table class="grid services">
    ${head(t("State"), t("Service"), [t("Ready")], [t("Calls/s")], [t("Errors")], ["p50"], ["p95"], ["p99"], [t("Queue")], t("Slots"), [t("Restarts")])}
    <${Rows} rows=${services} columns=${11}>
      ${(row) => {
        const { text, since } = whyOf(row, events);
        const isIll = moodOfRow(row) !== "good";
        return html`<tr key=${row.name} class="row">
          <td class="first"><${State} word=${row.state} mood=${moodOfRow(row)} /></td>
          <td class="name">
            <a href=${to("services", row.name)} title=${row.name}>${row.name}</a>
            ${(text || isIll) && html`<span class="why" title=${text}>${isIll && isKnown(since) ? `${ago(since)}: ` : ""}${text}</span>`}
          </td>
          ${cell(t("Ready"), `${row.ready}/${row.wanted}`)} ${cell(t("Calls/s"), plain(row.rate))}
          ${cell(t("Errors"), html`<span class=${row.error_rate > 0 ? "bad" : ""}>${isKnown(row.error_rate) ? share(row.error_rate, row.rate) : plain(row.errors)}</span>`)}
          ${["p50", "p95", "p99"].map((name) => cell(name, row.calls ? millis(row[name]) : "–"))}
          ${cell(t("Queue"), html`${plain(row.queue)}${isKnown(row.queue_capacity) && html`<span class="soft">/${plain(row.queue_capacity)}</span>`}`)}
          ${cell(t("Slots"), html`<${Stripes} stripes=${row.stripes} more=${row.more} />`, "wide")} ${cell(t("Restarts"), plain(row.restarts))}
        </tr>`;
      }}
    <//>
  </table>`;
}
