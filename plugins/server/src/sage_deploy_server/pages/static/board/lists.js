/** The screens of events and logs. */

import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { get, isRecorded } from "../api.js";
import { Empty, Shape, clock, moment, moodOfEvent, to } from "./parts.js";
import { t } from "./words.js";

const MOST_LINES = 2000;
const MOST_SHOWN = 500;
const LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR"];

const who = (each) => each.replica ?? each.service;

function EventRows({ events }) {
  return html`<ol class="feed">
    ${events.map(
      (each) => html`<li key=${each.seq}>
        <time title=${moment(each.time)}>${clock(each.time)}</time>
        <span class="kind"><${Shape} mood=${moodOfEvent(each.kind)} /> ${t(each.kind.replaceAll("_", " "))}</span>
        <span class="what">${who(each) && html`<a href=${to("services", each.service)}>${who(each)}</a>`} ${each.reason}</span>
      </li>`,
    )}
  </ol>`;
}

/** The latest events. `all` is the link to all events. */
export function Latest({ title = t("Events"), events, all, most = 20 }) {
  return html`<section class="card flush">
    <header><h2>${title}</h2>${all && html`<a href=${all}>${t("All events")}</a>`}</header>
    <${EventRows} events=${events.slice(-most).reverse()} />
    ${events.length === 0 && html`<${Empty} text=${t("Nothing has happened yet.")} />`}
  </section>`;
}

/** Filter fields. Their values are stored in the address. */
function Filters({ query, setQuery, names, choices, children }) {
  const pick = (name, label, all) => html`<select aria-label=${label} value=${query.get(name) ?? ""} onChange=${(event) => setQuery({ [name]: event.target.value })}>
    <option value="">${label}</option>
    ${all.map((each) => html`<option key=${each} value=${each}>${name === "kind" ? t(each.replaceAll("_", " ")) : each}</option>`)}
  </select>`;
  return html`<div class="filters">
    <input type="search" data-find aria-label=${t("Find")} placeholder=${t("Find (press /)")} value=${query.get("q") ?? ""} onInput=${(event) => setQuery({ q: event.target.value })} />
    ${pick("service", t("All services"), names)} ${pick(...choices)} ${children}
  </div>`;
}

export function Events({ live, query, setQuery }) {
  const kinds = [...new Set(live.events.map((each) => each.kind))].sort();
  const [service, kind, words] = ["service", "kind", "q"].map((name) => query.get(name) ?? "");
  const found = live.events.filter(
    (each) => (!service || each.service === service) && (!kind || each.kind === kind) && `${each.kind} ${who(each)} ${each.reason}`.toLowerCase().includes(words.toLowerCase()),
  );
  return html`
    <h1>${t("Events")}</h1>
    <${Filters} query=${query} setQuery=${setQuery} names=${live.services.map((row) => row.name)} choices=${["kind", t("All kinds"), kinds]}>
      <span class="soft">${found.length}</span>
    <//>
    <section class="card flush">
      ${found.length ? html`<${EventRows} events=${found.slice(-MOST_SHOWN).reverse()} />` : html`<${Empty} text=${t("No such event. In a terminal, they come as they happen with:")} command="sage-deploy events --follow" />`}
    </section>
  `;
}

export function Logs({ live, query, setQuery }) {
  const [lines, setLines] = useState([]);
  const [isHeld, setHeld] = useState(false);
  const end = useRef(null);
  const last = useRef(0);
  const [service, level, words] = ["service", "level", "q"].map((name) => query.get(name) ?? "");

  useEffect(() => {
    if (isHeld || live.link !== "live") return;
    let isOver = false;
    get(`/api/v1/logs?after=${last.current}`).then(
      (more) => {
        if (isOver || !more.length) return;
        last.current = more.at(-1).seq;
        setLines((before) => [...before, ...more].slice(-MOST_LINES));
      },
      () => {}, // the connection's notice reports it
    );
    return () => {
      isOver = true;
    };
  }, [live.at, live.link, isHeld]);

  const shown = useMemo(() => {
    const from = LEVELS.indexOf(level);
    const isWanted = (each) => (!service || each.service === service) && (from < 0 || LEVELS.indexOf(each.level) >= from || each.level === "CRITICAL");
    const text = (each) => `${each.level} ${each.replica ?? ""} ${each.request_id ?? ""} ${each.message}`.toLowerCase();
    return lines.filter((each) => isWanted(each) && text(each).includes(words.toLowerCase())).slice(-MOST_SHOWN);
  }, [lines, service, level, words]);
  useEffect(() => {
    if (!isHeld) end.current.scrollTop = end.current.scrollHeight;
  }, [shown, isHeld]);

  return html`
    <h1>${t("Logs")}</h1>
    <${Filters} query=${query} setQuery=${setQuery} names=${live.services.map((row) => row.name)} choices=${["level", t("All levels"), LEVELS]}>
      ${!isRecorded && html`<button type="button" aria-pressed=${isHeld} onClick=${() => setHeld(!isHeld)}>${isHeld ? t("Follow") : t("Hold still")}</button>`}
      <span class="soft">${shown.length}</span>
    <//>
    <section class="card flush">
      <ol ref=${end} class="log" tabindex="0" aria-label=${t("Logs")}>
        ${shown.map(
          (each) => html`<li key=${each.seq}>
            <time title=${moment(each.time)}>${clock(each.time)}</time> <b class=${`level ${each.level.toLowerCase()}`}>${each.level}</b>
            <span class="soft"> ${who(each)}${each.request_id ? ` ${each.request_id}` : ""}</span> ${each.message}
          </li>`,
        )}
      </ol>
      ${shown.length === 0 && html`<${Empty} text=${t("No such line. In a terminal, they come as they are logged with:")} command="sage-deploy logs --follow" />`}
    </section>
  `;
}
