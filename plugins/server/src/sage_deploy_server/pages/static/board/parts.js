/** Common parts of the screens: states, readable numbers, slots, tables. */

import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { now } from "../api.js";
import { t } from "./words.js";

// -- states -----------------------------------------------------------------------------------------------------------

const SHAPES = {
  good: "M5 0a5 5 0 1 0 0 10a5 5 0 1 0 0-10z",
  warn: "M5 .4L10 9.6H0z",
  bad: "M3 0h4l3 3v4l-3 3H3L0 7V3z",
  busy: "M5 0a5 5 0 1 0 0 10a5 5 0 1 0 0-10zM5 1.6v6.8a3.4 3.4 0 0 1 0-6.8z",
  off: "M0 3.6h10v2.8H0z",
};

const MOODS = {
  ready: "good",
  alive: "good",
  ok: "good",
  keep: "good",
  done: "good",
  degraded: "warn",
  unready: "warn",
  draining: "warn",
  warning: "warn",
  unhealthy: "bad",
  failed: "bad",
  crash_loop: "bad",
  dead: "bad",
  error: "bad",
  stopped: "off",
  info: "off",
};

const RANKS = { bad: 0, warn: 1, busy: 2, off: 3, good: 4 };

export const moodOf = (word) => MOODS[word] ?? "busy";

/** A service without a ready replica is worse than a replica that asks for no calls. */
export const moodOfRow = (row) => (row.state === "unready" ? "bad" : moodOf(row.state));

export const rankOf = (row) => RANKS[moodOfRow(row)];

export function State({ word, mood = moodOf(word) }) {
  return html`<span class=${`state ${mood}`}><${Shape} mood=${mood} /><span>${t(word)}</span></span>`;
}

export function Shape({ mood }) {
  return html`<svg class=${`shape ${mood}`} viewBox="0 0 10 10" aria-hidden="true"><path d=${SHAPES[mood]} /></svg>`;
}

/** The reason for a service's state, and since when: from its row, else from its last event about trouble. */
export function whyOf(row, events) {
  if (moodOfRow(row) === "good") return { text: row.why ?? "", since: row.since };
  const event = events.findLast((each) => each.service === row.name && each.reason && TROUBLE.test(each.kind));
  return { text: row.why || event?.reason || "", since: row.since ?? event?.time };
}

const TROUBLE = /un(ready|healthy)|fail|kill|loop|refused|delay|drain|overload|fenced/;

export const moodOfEvent = (kind) =>
  /fail|kill|loop|unhealthy|refused|fenced/.test(kind) ? "bad" : /unready|delay|overload|drain/.test(kind) ? "warn" : /ready/.test(kind) ? "good" : "busy";

// -- numbers ----------------------------------------------------------------------------------------------------------

export const isKnown = (value) => value != null;
const known = (value, shown) => (isKnown(value) ? shown(value) : "–");
const digits = (value) => (value >= 99.95 || value === 0 ? Math.round(value).toLocaleString("en") : value >= 9.995 ? value.toFixed(1) : value.toFixed(2));

export const plain = (value) => known(value, (each) => (Number.isInteger(each) ? each.toLocaleString("en") : digits(each)));
export const millis = (seconds) => known(seconds, (each) => (each >= 1 ? `${digits(each)} s` : `${digits(each * 1000)} ms`));
export const share = (part, whole) => known(part, () => (whole > 0 ? `${digits((100 * part) / whole)} %` : "0 %"));
export const clock = (time) => new Date(time * 1000).toLocaleTimeString("en-GB");
export const moment = (time) => known(time, (each) => new Date(each * 1000).toLocaleString("sv"));

export const bytes = (value) =>
  known(value, () => {
    const power = Math.min(4, Math.floor(Math.log2(Math.max(value, 1)) / 10));
    return `${plain(Math.round((value / 1024 ** power) * 10) / 10)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
  });

export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 100) return t("{n} s", { n: whole });
  if (whole < 6000) return t("{n} min", { n: Math.round(whole / 60) });
  return whole < 172_800 ? t("{n} h", { n: Math.round(whole / 3600) }) : t("{n} d", { n: Math.round(whole / 86_400) });
}

export const ago = (time) => known(time, () => span(now() - time));

// -- slots ------------------------------------------------------------------------------------------------------------

const MOST_REPLICAS = 10;
const MOST_SLOTS = 24;

/** The slots of replicas as bars: filled while a call runs, crossed out if its caller has given up. */
export function Stripes({ stripes, more = 0 }) {
  if (!stripes?.length) return html`<span class="soft">–</span>`;
  const shown = stripes.slice(0, MOST_REPLICAS);
  const rest = more + stripes.length - shown.length;
  const most = Math.max(2, Math.floor(MOST_SLOTS / shown.length));
  const said = shown.map(([id, state, slots, busy, left]) => `${id} ${state}: ${busy}/${slots}${left ? ` (${left})` : ""}`).join("\n");
  const bars = { idle: "", ill: "", on: "", left: "" };
  let x = 1;
  for (const [, state, slots, busy, left] of shown) {
    const count = Math.max(1, Math.min(slots, most));
    const part = count / Math.max(1, slots);
    for (let at = 0; at < count; at++, x += 6) {
      const kind = at < left * part ? "left" : at < busy * part ? "on" : moodOf(state) === "good" ? "idle" : "ill";
      bars[kind] += `M${x} 2.5h4v13h-4z${kind === "left" ? "l4 13" : ""}`;
    }
    x += 4;
  }
  return html`<span class="stripes" role="img" aria-label=${t("Slots: {said}", { said })} title=${said}>
    <svg viewBox=${`0 0 ${x} 18`}>${Object.entries(bars).map(([kind, d]) => d && html`<path key=${kind} class=${kind} d=${d} />`)}</svg>
    ${rest > 0 && html`<span class="soft">+${rest}</span>`}
  </span>`;
}

// -- small things -----------------------------------------------------------------------------------------------------

/** An empty list, and the command that would fill it. */
export function Empty({ text, command }) {
  return html`<div class="empty">
    <p>${text}</p>
    ${command && html`<p><code>${command}</code></p>`}
  </div>`;
}

/** An error. The whole page, not this part, reports that the login has ended. */
export function Failed({ error }) {
  return error && error.status !== 401 ? html`<p class="failure" role="alert">${error.message}</p>` : null;
}

/** A bar that shows how much of something is used. */
export function Meter({ part, whole }) {
  return html`<svg class="meter" width="100%" height="6" aria-hidden="true"><rect width="100%" height="6" rx="3" /><rect class="full" width=${`${whole ? Math.min(100, (100 * part) / whole) : 0}%`} height="6" rx="3" /></svg>`;
}

/** The head of a table, with one text for each column. A text in a list heads a column of numbers. */
export const head = (...columns) => html`<thead>
  <tr>${columns.filter(Boolean).map((each) => html`<th scope="col" class=${Array.isArray(each) ? "num" : null}>${each}</th>`)}</tr>
</thead>`;

/** The text of a setting's value. */
export const written = (value) => (typeof value === "string" ? value : JSON.stringify(value));

/** A name and its value for a `dl`. Nothing if the value is unknown. */
export const fact = (name, value) => isKnown(value) && html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`;

export const to = (...path) => `#/${path.map(encodeURIComponent).join("/")}`;

/** The visible rows of a long list, in the space of all its rows. All rows have the same height. */
export function Rows({ rows, columns, children }) {
  const place = useRef(null);
  const [from, setFrom] = useState(0);
  const [each, setEach] = useState(56);
  const isLong = rows.length > 60;
  const seen = Math.ceil(innerHeight / each) + 20;
  useEffect(() => {
    if (!isLong) return undefined;
    const measure = () => {
      setEach(place.current.querySelector(".row").offsetHeight);
      const above = -place.current.getBoundingClientRect().top / each - 10;
      setFrom(Math.max(0, Math.min(rows.length - seen, Math.floor(above / 10) * 10)));
    };
    measure();
    addEventListener("scroll", measure, { passive: true });
    addEventListener("resize", measure);
    return () => {
      removeEventListener("scroll", measure);
      removeEventListener("resize", measure);
    };
  }, [isLong, rows.length, each, seen]);
  const [first, last] = isLong ? [from, Math.min(rows.length, from + seen)] : [0, rows.length];
  const room = (key, count) => count > 0 && html`<tr key=${key} class="room" aria-hidden="true"><td colspan=${columns} height=${count * each}></td></tr>`;
  return html`<tbody ref=${place} class=${isLong && "long"}>
    ${room("before", first)} ${rows.slice(first, last).map(children)} ${room("after", rows.length - last)}
  </tbody>`;
}
