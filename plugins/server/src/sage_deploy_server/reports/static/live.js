/** Replaces the server's stream by one recorded snapshot and its time. */

import { leftOut, now, recorded } from "../api.js";
import { html } from "../vendor/preact-htm.js";
import { CHINESE } from "./chinese.js";
import { moment } from "./parts.js";
import { t } from "./words.js";

Object.assign(CHINESE, {
  "Recorded {time}": "记录于 {time}",
  "Left out": "未收录",
  "This file leaves it out.": "本文件未收录此内容。",
  "This file leaves out:": "本文件未收录：",
  "charts of {n} of {all} services": "{all} 个服务中 {n} 个的图表",
  "replicas, errors and settings of {n} of {all} services": "{all} 个服务中 {n} 个的副本、错误和设置",
  "{n} of {all} log lines, the oldest": "{all} 行日志中最早的 {n} 行",
});

// "live" means that the numbers are true: they are, at the recorded time.
const live = { link: "live", at: now() * 1000, events: recorded("/api/v1/events").data, about: recorded("/api/v1/environment").data, services: recorded("/api/v1/services").data };

export const TITLE = moment(now());
export const useLive = () => live;
export const useData = (path) => (path === null ? {} : recorded(path));
export const begin = () => {};

export function Link() {
  return html`<time class="badge" datetime=${new Date(now() * 1000).toISOString()}>${t("Recorded {time}", { time: moment(now()) })}</time>`;
}

export function Notice() {
  const said = {
    charts: t("charts of {n} of {all} services", leftOut.charts),
    services: t("replicas, errors and settings of {n} of {all} services", leftOut.services),
    logs: t("{n} of {all} log lines, the oldest", leftOut.logs),
  };
  const kinds = Object.keys(said).filter((kind) => leftOut[kind].n > 0);
  if (kinds.length === 0) return null;
  return html`<aside aria-label=${t("Left out")}>
    <p>${t("This file leaves out:")}</p>
    <ul>${kinds.map((kind) => html`<li key=${kind}>${said[kind]}</li>`)}</ul>
  </aside>`;
}
