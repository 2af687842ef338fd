/** Line charts over time, with marks for events. */

import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { clock, isKnown } from "./parts.js";
import { t } from "./words.js";

const TALL = 150;
const LEFT = 56;
const BELOW = 22;
const ABOVE = 8;
const STEPS = [1, 2, 5, 10];
const SECONDS = [60, 300, 900, 3600, 10_800, 21_600];

/** Scale factor: 1 in a window of usual size, more in a large one. */
const unit = () => parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;

/** `lines`: [{name, values}], at most three; `marks`: events; `shown`: formats a value. */
export function Chart({ title, times, lines, marks = [], shown }) {
  const place = useRef(null);
  const [wide, setWide] = useState(0);
  const [at, setAt] = useState(null);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWide(Math.round(entry.contentRect.width / unit())));
    observer.observe(place.current);
    return () => observer.disconnect();
  }, []);
  const scale = useMemo(() => scaleOf(times, lines, wide), [times, lines, wide]);
  const near = at === null ? [] : marks.filter((mark) => Math.abs(scale.x(mark.time) - scale.x(times[at])) < 5);

  function follow(event) {
    const part = ((event.clientX - place.current.getBoundingClientRect().left) / unit() - LEFT) / (wide - LEFT);
    setAt(part < 0 ? null : Math.max(0, Math.min(times.length - 1, Math.round(part * (times.length - 1)))));
  }

  return html`<figure class="chart">
    <figcaption>
      <h3>${title}</h3>
      <span class="soft when">${at === null ? "" : clock(times[at])}</span>
      <span class="legend">
        ${lines.map(({ name, values }, index) => html`<span key=${name} class=${`line${index}`}><i></i>${name} <b>${shown(at === null ? values.slice(-3).findLast(isKnown) : values[at])}</b></span>`)}
      </span>
    </figcaption>
    <div ref=${place} onPointerMove=${follow} onPointerLeave=${() => setAt(null)}>
      <svg viewBox=${`0 0 ${wide} ${TALL}`} role="img" aria-label=${saidOf(title, lines, shown)}>
        ${wide > 0 && html`
          ${scale.values.map((value) => html`<g key=${value}>
            <path class="grid" d=${`M${LEFT} ${scale.y(value)}H${wide}`} />
            <text x=${LEFT - 8} y=${scale.y(value) + 4} text-anchor="end">${shown(value)}</text>
          </g>`)}
          ${scale.times.map((time) => html`<text key=${time} x=${scale.x(time)} y=${TALL - 4} text-anchor="middle">${clock(time).slice(0, 5)}</text>`)}
          ${marks.map((mark) => html`<path key=${mark.seq} class=${`mark ${mark.mood}`} d=${`M${scale.x(mark.time)} ${ABOVE}V${TALL - BELOW}m0 0l-4 6h8z`}>
            <title>${clock(mark.time)} ${mark.kind} ${mark.reason}</title>
          </path>`)}
          ${lines.map(({ name }, index) => html`<path key=${name} class=${`curve line${index}`} d=${scale.paths[index]} />`)}
          ${at !== null && html`<path class="cursor" d=${`M${scale.x(times[at])} ${ABOVE}V${TALL - BELOW}`} />`}
        `}
      </svg>
    </div>
    <p class="near">${near.map((mark) => `${mark.kind}${mark.reason ? `: ${mark.reason}` : ""}`).join(" · ")}</p>
  </figure>`;
}

function saidOf(title, lines, shown) {
  const last = ({ values }) => values.findLast(isKnown);
  return `${title}: ${lines.map((line) => `${line.name} ${isKnown(last(line)) ? shown(last(line)) : t("unknown")}`).join(", ")}`;
}

function scaleOf(times, lines, wide) {
  const first = times[0];
  const length = Math.max(1, times.at(-1) - first);
  const most = Math.max(...lines.flatMap(({ values }) => values.filter(isKnown)), 0) || 1;
  const power = 10 ** Math.floor(Math.log10(most / 3));
  const step = power * STEPS.find((each) => power * each * 3.4 >= most);
  const top = Math.ceil(most / step) * step;
  const x = (time) => Math.round((LEFT + ((wide - LEFT - 6) * (time - first)) / length) * 10) / 10;
  const y = (value) => Math.round((TALL - BELOW - ((TALL - BELOW - ABOVE) * value) / top) * 10) / 10;
  const between = SECONDS.find((each) => length / each <= Math.max(2, wide / 80)) ?? 21_600;
  const zone = new Date(first * 1000).getTimezoneOffset() * 60;
  const begin = Math.ceil((first - zone) / between) * between + zone;
  const marks = Array.from({ length: Math.max(0, Math.floor((times.at(-1) - begin) / between) + 1) }, (_, at) => begin + at * between);
  return {
    x,
    y,
    values: Array.from({ length: Math.round(top / step) + 1 }, (_, at) => at * step),
    times: marks.filter((time) => x(time) > LEFT + 10 && x(time) < wide - 20),
    paths: lines.map(({ values }) => pathOf(times, values, x, y)),
  };
}

/** The SVG path of a line, with gaps where values are unknown. */
function pathOf(times, values, x, y) {
  let isDown = false;
  return values
    .map((value, at) => {
      if (!isKnown(value)) return (isDown = false), "";
      const part = `${isDown ? "L" : "M"}${x(times[at])} ${y(value)}`;
      const isAlone = !isDown && !isKnown(values[at + 1]);
      isDown = true;
      return isAlone ? `${part}h.1` : part;
    })
    .join("");
}

/** A small line without numbers. */
export function Spark({ values }) {
  const points = (values ?? []).slice(-120);
  if (points.filter(isKnown).length < 2) return html`<svg class="spark" viewBox="0 0 120 28" aria-hidden="true"></svg>`;
  const most = Math.max(...points.filter(isKnown)) || 1;
  const path = pathOf(points.map((_, at) => at), points, (at) => Math.round(at * (1200 / (points.length - 1))) / 10, (value) => Math.round(260 - (240 * value) / most) / 10);
  return html`<svg class="spark" viewBox="0 0 120 28" preserveAspectRatio="none" aria-hidden="true"><path d=${path} /></svg>`;
}
