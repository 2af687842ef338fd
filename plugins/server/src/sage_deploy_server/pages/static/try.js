/** The page that tries calls: services on the left, a form for a method and what has come of the call on the right. */

import { look, Refused } from "./api.js";
import { Method } from "./method.js";
import { html, render, useCallback, useEffect, useRef, useState } from "./vendor/preact-htm.js";

const NEEDS_WORDS = new Set(["INPUT", "TEXTAREA", "SELECT"]);

function chosenNow() {
  try {
    const [service, method] = location.hash.slice(2).split("/").map(decodeURIComponent);
    return { service, method };
  } catch {
    return {}; // somebody has changed the address
  }
}

function addressOf(service, method) {
  return `#/${encodeURIComponent(service)}/${encodeURIComponent(method)}`;
}

function Page() {
  const [about, setAbout] = useState(null);
  const [services, setServices] = useState(null);
  const [failure, setFailure] = useState(null);
  const [chosen, setChosen] = useState(chosenNow);

  const load = useCallback(async () => {
    try {
      const [environment, found] = await Promise.all([look("/api/v1/environment"), look("/services")]);
      setAbout(environment);
      setServices(found.services);
      setFailure(null);
    } catch (error) {
      setFailure(error);
    }
  }, []);

  useEffect(() => {
    load();
    const follow = () => setChosen(chosenNow());
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, [load]);

  const service = services?.find((each) => each.name === chosen.service);
  const method = service?.methods.find((each) => each.name === chosen.method);

  return html`
    <header class="bar">
      <img src="/static/icon.svg" alt="" width="28" height="28" />
      <h1>Try calls</h1>
      ${about && html`<span class="name">${about.name}</span>`}
      ${about?.access === "read" && html`<span class="badge warn">may only look</span>`}
      <button type="button" class="quiet" onClick=${load}>Reload</button>
    </header>
    ${failure && html`<${Failure} error=${failure} />`}
    <div class="sides">
      ${services && html`<${Services} services=${services} chosen=${chosen} />`}
      <main>
        ${services === null && !failure && html`<p class="empty">Loading ...</p>`}
        ${services?.length === 0 && html`<p class="empty">No service runs. <code>sage-deploy up FILE</code> deploys some.</p>`}
        ${method
          ? html`<${Method} key=${addressOf(service.name, method.name)} service=${service} method=${method} about=${about} />`
          : services?.length > 0 && html`<p class="empty">${nothingChosen(chosen, service)}</p>`}
      </main>
    </div>
  `;
}

function nothingChosen(chosen, service) {
  if (!chosen.service) return "Choose a method.";
  if (service === undefined) return `There is no service ${chosen.service}.`;
  return `${chosen.service} has no method ${chosen.method ?? ""}.`;
}

function Failure({ error }) {
  const isOut = error instanceof Refused && error.status === 401;
  return html`<p class="failure" role="alert">
    ${isOut
      ? html`This browser is not logged in any more. Run <code>sage-deploy login</code>, and open the link that it prints.`
      : html`The server does not answer: ${error.message}`}
  </p>`;
}

function Services({ services, chosen }) {
  const [words, setWords] = useState("");
  const field = useRef(null);

  useEffect(() => {
    const onKey = (event) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || NEEDS_WORDS.has(event.target.tagName)) return;
      event.preventDefault();
      field.current?.focus();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);

  const wanted = words.toLowerCase();
  const isWanted = (service, method) => `${service.name}.${method.name}`.toLowerCase().includes(wanted);
  const shown = services
    .map((service) => ({ ...service, methods: service.methods.filter((method) => isWanted(service, method)) }))
    .filter((service) => service.methods.length > 0 || wanted === "");

  return html`
    <nav aria-label="Services">
      <input
        ref=${field}
        type="search"
        aria-label="Find a method"
        placeholder="Find a method (press /)"
        value=${words}
        onInput=${(event) => setWords(event.target.value)}
      />
      ${shown.length === 0 && html`<p class="empty">No method has that in its name.</p>`}
      <div class="services">
        ${shown.map((service) => html`<${Service} key=${service.name} service=${service} chosen=${chosen} />`)}
      </div>
    </nav>
  `;
}

function Service({ service, chosen }) {
  const isReady = service.state === "ready";
  return html`
    <section>
      <h2 title=${service.description}>
        <span class="word">${service.name}</span>
        <span class=${`badge ${isReady ? "good" : "warn"}`}>${service.state}</span>
      </h2>
      ${service.error && html`<p class="why">${service.error}</p>`}
      <ul>
        ${service.methods.map((method) => {
          const isChosen = service.name === chosen.service && method.name === chosen.method;
          return html`<li key=${method.name}>
            <a href=${addressOf(service.name, method.name)} aria-current=${isChosen ? "page" : null}>
              <span class="word">${method.name}</span>
              ${method.streams && html`<span class="badge">stream</span>`}
            </a>
          </li>`;
        })}
      </ul>
    </section>
  `;
}

render(html`<${Page} />`, document.body);
