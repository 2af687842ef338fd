/** The outcome of a call: status, time, request ID, and the result, the problem or the items so far. */

import { t } from "./board/words.js";
import { duration, indented } from "./text.js";
import { html, useEffect, useMemo, useRef } from "./vendor/preact-htm.js";

/** Maximum number of shown characters, of a result and of an item. */
const MOST_OF_RESULT = 100_000;
const MOST_OF_ITEM = 2_000;
const MOST_BYTES = 256;

const STATES = { running: "running ...", stopped: "stopped", lost: "no answer" };

export function Outcome({ outcome }) {
  const isBad = outcome.state === "lost" || outcome.problem !== undefined;
  const mood = outcome.state === "ended" ? (isBad ? "bad" : "good") : isBad ? "bad" : "warn";
  const place = useRef(null);
  useEffect(() => place.current.scrollIntoView({ block: "nearest" }), [outcome.state]);
  return html`
    <section ref=${place} class="sheet outcome" aria-label=${t("Outcome")}>
      <p class="facts" role="status">
        <span class=${`badge ${mood}`}>${STATES[outcome.state] ? t(STATES[outcome.state]) : `${t("status")} ${outcome.status}`}</span>
        ${outcome.ms !== undefined && html`<span>${outcome.state === "running" ? t("began after {time}", { time: duration(outcome.ms) }) : duration(outcome.ms)}</span>`}
        ${outcome.items.count > 0 && html`<span>${t(outcome.items.count === 1 ? "1 item" : "{n} items", { n: outcome.items.count })}</span>`}
        ${outcome.requestId && html`<span class="hint">${t("request")} <code>${outcome.requestId}</code></span>`}
      </p>
      ${outcome.state === "lost" && html`<p class="problem">${t("The server did not answer: {error}", { error: outcome.error })}</p>`}
      ${outcome.kind === "stream" && html`<${Items} items=${outcome.items} />`}
      ${outcome.problem && html`<${Problem} problem=${outcome.problem} broke=${outcome.kind === "stream"} />`}
      ${outcome.text !== undefined && html`<${Result} text=${outcome.text} />`}
      ${outcome.bytes && html`<${Bytes} bytes=${outcome.bytes} />`}
    </section>
  `;
}

function Items({ items }) {
  const hidden = items.count - items.latest.length;
  return html`
    ${hidden > 0 && html`<p class="hint">${t("The first {n} are not shown any more.", { n: hidden })}</p>`}
    <ol class="items" start=${hidden + 1} tabindex="0" aria-label=${t("Items")}>
      ${items.latest.map((item, at) => html`<li key=${hidden + at}><code>${shortened(item, MOST_OF_ITEM)}</code></li>`)}
    </ol>
  `;
}

function Problem({ problem, broke }) {
  const { code, detail, title: _title, status: _status, ...more } = problem;
  return html`
    <div class="problem-box">
      <p><strong>${broke ? t("The stream broke: ") : ""}${code ?? "error"}</strong></p>
      <p class="detail">${detail}</p>
      ${Object.entries(more).map(([name, value]) => html`<p key=${name} class="hint">${name}: ${String(value)}</p>`)}
    </div>
  `;
}

function Result({ text }) {
  const shown = useMemo(() => (text.length > MOST_OF_RESULT ? shortened(text, MOST_OF_RESULT) : indented(text)), [text]);
  return html`<pre class="result" tabindex="0" aria-label=${t("Result")}>${shown}</pre>`;
}

function Bytes({ bytes }) {
  const first = Array.from(bytes.subarray(0, MOST_BYTES), (each) => each.toString(16).padStart(2, "0")).join(" ");
  return html`
    <p class="hint">${t(bytes.length > MOST_BYTES ? "{n} bytes, of which the first {most} are:" : "{n} bytes:", { n: bytes.length, most: MOST_BYTES })}</p>
    <pre class="result" tabindex="0" aria-label=${t("Result")}>${first}</pre>
  `;
}

function shortened(text, most) {
  return text.length <= most ? text : `${text.slice(0, most)} … ${text.length - most} more characters`;
}
