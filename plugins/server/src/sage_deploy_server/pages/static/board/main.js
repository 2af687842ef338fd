/** The dashboard: the frame around all screens, and navigation. */

import { html, render, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { Try } from "../try.js";
import { Events, Logs } from "./lists.js";
import { Link, Notice, TITLE, begin, useLive } from "./live.js";
import { Overview } from "./overview.js";
import { moodOfRow } from "./parts.js";
import { Placement, Replica } from "./places.js";
import { Service } from "./service.js";
import { Doctor, Plan, Plugins } from "./upkeep.js";
import { speak, spoken, t } from "./words.js";

/** Screens in the bar: address, name, and the key to press after `g`. */
const SCREENS = [
  ["overview", "Overview", "o", Overview],
  ["placement", "Placement", "p", Placement],
  ["events", "Events", "e", Events],
  ["logs", "Logs", "l", Logs],
  ["plan", "Plan", "n", Plan],
  ["plugins", "Plugins", "u", Plugins],
  ["doctor", "Doctor", "d", Doctor],
  ["try", "Try", "t", Try],
].filter(([, , , screen]) => screen);
const KEY_WAIT_MS = 1500;
const NEEDS_WORDS = new Set(["INPUT", "TEXTAREA", "SELECT"]);

/** The place in the address: the parts of its path, and its query. */
function placeNow() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  try {
    return { path: path.split("/").filter(Boolean).map(decodeURIComponent), query: new URLSearchParams(query) };
  } catch {
    return { path: [], query: new URLSearchParams() }; // the user has typed an invalid address
  }
}

function usePlace() {
  const [place, setPlace] = useState(placeNow);
  useEffect(() => {
    onhashchange = () => setPlace(placeNow());
    onhashchange(); // for an earlier change
  }, []);
  const setQuery = (more) => {
    const query = new URLSearchParams(place.query);
    Object.entries(more).forEach(([name, value]) => (value ? query.set(name, value) : query.delete(name)));
    const path = location.hash.split("?")[0] || "#/"; // the same screen: another one would be drawn anew, without the focus
    history.replaceState(null, "", query.size ? `${path}?${query}` : path);
    setPlace(placeNow());
  };
  return { ...place, setQuery };
}

function screenOf(path) {
  if (path[0] === "services" && path.length === 2) return Service;
  if (path[0] === "services" && path.length > 2) return Replica;
  return SCREENS.find(([address]) => address === path[0])?.[3] ?? Overview;
}

function useKeys(showHelp) {
  useEffect(() => {
    let gone = 0; // time at which `g` was pressed
    const onKey = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || NEEDS_WORDS.has(event.target.tagName) || document.querySelector("dialog[open]")) return;
      const screen = SCREENS.find(([, , key]) => key === event.key);
      if (event.timeStamp - gone < KEY_WAIT_MS && screen) location.hash = `#/${screen[0]}`;
      else if (event.key === "?") showHelp(true);
      else if (event.key === "/" && document.querySelector("[data-find]")) {
        event.preventDefault();
        document.querySelector("[data-find]").focus();
      }
      gone = event.key === "g" ? event.timeStamp : 0;
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
}

function Page() {
  const live = useLive();
  const place = usePlace();
  const [language, setLanguage] = useState(spoken);
  const [help, showHelp] = useState(false);
  const main = useRef(null);
  const screen = screenOf(place.path);
  const here = place.path.join("/");
  useKeys(showHelp);
  useEffect(() => scrollTo(0, 0), [here]);

  const ill = live.services?.filter((row) => moodOfRow(row) !== "good").length ?? 0;
  const name = live.about?.name ?? "sage-deploy";
  document.title = `${ill ? `▲ ${ill} · ` : ""}${name} · ${TITLE}`;

  const change = () => {
    speak(language === "zh" ? "en" : "zh");
    setLanguage(spoken);
  };

  return html`
    <header class="bar">
      <a class="brand" href="#/overview"><img src="/static/icon.svg" alt="" width="26" height="26" /><b title=${name}>${name}</b></a>
      <nav aria-label=${t("Screens")}>
        ${SCREENS.map(([address, label]) => {
          const isHere = address === (place.path[0] ?? "overview") || (address === "overview" && place.path[0] === "services");
          return html`<a key=${address} href=${`#/${address}`} aria-current=${isHere ? "page" : null}>${t(label)}</a>`;
        })}
      </nav>
      <div class="tools">
        ${live.about?.access === "read" && html`<span class="badge warn">${t("may only look")}</span>`}
        <${Link} live=${live} />
        <button type="button" class="quiet" lang=${language === "zh" ? "en" : "zh"} onClick=${change}>${language === "zh" ? "English" : "中文"}</button>
        <button type="button" class="quiet" aria-label=${t("Keys")} title=${t("Keys")} onClick=${() => showHelp(true)}>?</button>
      </div>
    </header>
    <main ref=${main} class=${`${live.link === "live" ? "" : "stale"} ${screen === Try ? "try" : ""}`}>
      ${!live.services
        ? live.link !== "out" && html`<p class="empty">${live.link === "lost" ? t("The server does not answer.") : t("Loading ...")}</p>`
        : html`<${screen} key=${screen === Try ? "try" : here} ...${place} live=${live} name=${place.path[1]} id=${place.path[2]} />`}
    </main>
    <${Notice} live=${live} />
    ${help && html`<${Help} onClose=${() => showHelp(false)} />`}
  `;
}

function Help({ onClose }) {
  const window = useRef(null);
  useEffect(() => window.current.showModal(), []);
  const key = (keys, text) => html`<div key=${text}><dt>${keys.map((each) => html`<kbd key=${each}>${each}</kbd> `)}</dt><dd>${text}</dd></div>`;
  return html`<dialog ref=${window} class="card" onClose=${onClose} aria-labelledby="keys">
    <h2 id="keys">${t("Keys")}</h2>
    <dl class="keys">
      ${key(["/"], t("find"))} ${SCREENS.map(([, label, each]) => key(["g", each], t(label)))} ${key(["?"], t("these keys"))}
    </dl>
    <p class="actions"><button type="button" onClick=${() => window.current.close()}>${t("Close")}</button></p>
  </dialog>`;
}

begin();
render(html`<${Page} />`, document.body);
