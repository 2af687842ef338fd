/** The server's snapshot of each second, and whether it is up to date. */

import { get, Refused } from "../api.js";
import { html, useCallback, useEffect, useReducer, useState } from "../vendor/preact-htm.js";
import { Shape, ago } from "./parts.js";
import { t } from "./words.js";

/** The end of page titles. */
export const TITLE = "sage-deploy";
const MOST_EVENTS = 1000;
/** After this time without a snapshot, the connection counts as lost. */
const LOST_AFTER_MS = 3500;
const AGAIN_MS = 2000;

/** `link` is "connecting", "live", "lost", "paused" or "out" (the login has ended). The other fields are current only if "live". */
export const live = { link: "connecting", at: 0, about: null, services: null, events: [] };

const watchers = new Set();
let source = null;
let again = 0;

const tell = () => watchers.forEach((each) => each());

/** Return `live`, and draw again whenever it changes. */
export function useLive() {
  const [, draw] = useReducer((count) => count + 1, 0);
  useEffect(() => {
    watchers.add(draw);
    return () => watchers.delete(draw);
  }, []);
  return live;
}

export function begin() {
  document.addEventListener("visibilitychange", () => (document.hidden ? rest() : open()));
  setInterval(() => {
    if (document.hidden || live.link === "connecting") return;
    if (live.link !== "live") tell(); // shows the new age of the data
    else if (Date.now() - live.at > LOST_AFTER_MS) lose();
  }, 1000);
  open();
}

/** Pause or resume the stream. */
function pause(wanted) {
  live.link = wanted ? "paused" : "connecting";
  if (wanted) close();
  else open();
  tell();
}

function open() {
  if (source || document.hidden || live.link === "paused") return;
  clearTimeout(again);
  source = new EventSource("/api/v1/stream");
  source.onmessage = (message) => take(JSON.parse(message.data));
  source.onerror = lose;
}

function close() {
  clearTimeout(again);
  source?.close();
  source = null;
}

/** The page is hidden: stop the stream. The data is old until the next snapshot. */
function rest() {
  close();
  if (live.link === "live") live.link = "connecting";
  tell();
}

function lose() {
  close();
  if (live.link !== "out") live.link = "lost";
  tell();
  again = setTimeout(open, AGAIN_MS);
  get("/api/v1/environment").catch((error) => {
    if (!(error instanceof Refused && error.status === 401)) return;
    live.link = "out";
    tell();
  });
}

function take(snapshot) {
  const isFirst = live.link !== "live";
  Object.assign(live, { link: "live", at: Date.now(), services: snapshot.services });
  if (isFirst) live.events = []; // another environment may answer now
  if (add(snapshot.events) || isFirst) catchUp();
  tell();
}

/** Add new events. Return whether some before them are missing: slow pages do not get every snapshot. */
function add(events) {
  const last = live.events.at(-1)?.seq ?? 0;
  const newer = events.filter((each) => each.seq > last);
  live.events = [...live.events, ...newer].slice(-MOST_EVENTS);
  return newer[0]?.seq > last + 1;
}

/** Fetch what the stream has not sent. */
async function catchUp() {
  try {
    const [about, events] = await Promise.all([get("/api/v1/environment"), get("/api/v1/events")]);
    const newer = live.events; // may be newer than the answer
    live.about = about;
    live.events = events.slice(-MOST_EVENTS);
    add(newer);
  } catch {
    lose();
  }
  tell();
}

/** Shows whether the numbers are current, and pauses them. */
export function Link({ live }) {
  const isPaused = live.link === "paused";
  const [mood, text] = { live: ["good", "live"], lost: ["bad", "lost"], out: ["bad", "logged out"], paused: ["off", "paused"], connecting: ["busy", "connecting"] }[live.link];
  return html`<span class="link"><${Shape} mood=${mood} />${t(text)}</span>
    <button type="button" class="quiet" aria-pressed=${isPaused} onClick=${() => pause(!isPaused)}>${isPaused ? t("Go on") : t("Pause")}</button>`;
}

/** Shows what is wrong with the connection, and how old the numbers are. Scrolling reveals any text under it. */
export function Notice({ live }) {
  if (live.link === "live" || (live.link === "connecting" && live.at === 0)) return null;
  const age = live.at > 0 && t("What you see is {time} old.", { time: ago(live.at / 1000) });
  const text = {
    out: t("This browser is not logged in any more. Open the link that this command prints:"),
    lost: t("The connection is lost. It is tried again all the time."),
    paused: t("Paused."),
    connecting: t("Connecting ..."),
  }[live.link];
  return html`<div class=${`notice-bar ${live.link}`} role=${live.link === "paused" ? "status" : "alert"}>
    <p>${text} ${live.link === "out" && html`<code>sage-deploy login</code>`} <b>${age}</b></p>
    ${live.link === "paused" && html`<button type="button" onClick=${() => pause(false)}>${t("Go on")}</button>`}
  </div>`;
}

/** Fetch a path, and again every `every` seconds while the connection is live. `data` is undefined until it arrives. */
export function useData(path, every = 0) {
  const [found, setFound] = useState({});
  const isLive = useLive().link === "live";
  const load = useCallback(async () => {
    if (path === null || document.hidden) return;
    try {
      const data = await get(path);
      setFound({ path, data });
    } catch (error) {
      setFound((before) => ({ path, data: before.path === path ? before.data : undefined, error }));
    }
  }, [path]);
  useEffect(() => {
    if (!isLive) return undefined;
    load();
    const timer = every && setInterval(load, every * 1000);
    return () => clearInterval(timer);
  }, [load, every, isLive]);
  return found.path === path ? { ...found, load } : { load };
}
