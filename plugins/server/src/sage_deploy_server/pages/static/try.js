/** The screen for trying calls: services on the left, a method's form and the call's outcome on the right. */

import { useData } from "./board/live.js";
import { Failed, State, to } from "./board/parts.js";
import { t } from "./board/words.js";
import { Method } from "./method.js";
import { html, useState } from "./vendor/preact-htm.js";

const EVERY_S = 15;

export function Try({ live, path }) {
  const { data, error } = useData("/services", EVERY_S);
  const [, ...chosen] = path;
  const services = data?.services;
  const service = services?.find((each) => each.name === chosen[0]);
  const method = service?.methods.find((each) => each.name === chosen[1]);
  return html`
    ${services && html`<${Services} services=${services} chosen=${chosen} />`}
    <div class="tried">
      <${Failed} error=${error} />
      ${!services && !error && html`<p class="empty">${t("Loading ...")}</p>`}
      ${method && live.about
        ? html`<${Method} key=${path.join("/")} service=${service} method=${method} about=${live.about} />`
        : services && html`<p class="empty">${nothingChosen(chosen, service)}</p>`}
    </div>
  `;
}

function nothingChosen([name, method], service) {
  if (!name) return t("Choose a method.");
  if (!service) return t("There is no service {name}.", { name });
  return t("{name} has no method {method}.", { name, method: method ?? "" });
}
function Services({ services, chosen }) {
  const [words, setWords] = useState("");
  const wanted = words.toLowerCase();
  const isWanted = (service, method) => `${service.name}.${method.name}`.toLowerCase().includes(wanted);
  const shown = services
    .map((service) => ({ ...service, methods: service.methods.filter((method) => isWanted(service, method)) }))
    .filter((service) => service.methods.length > 0 || wanted === "");

  return html`
    <nav aria-label=${t("Services")}>
      <input
        type="search"
        data-find
        aria-label=${t("Find a method")}
        placeholder=${t("Find a method (press /)")}
        value=${words}
        onInput=${(event) => setWords(event.target.value)}
      />
      ${shown.length === 0 && html`<p class="empty">${t("No method has that in its name.")}</p>`}
      <div class="services">
        ${shown.map((service) => html`<${Service} key=${service.name} service=${service} chosen=${chosen} />`)}
      </div>
    </nav>
  `;
}

function Service({ service, chosen }) {
  return html`
    <section>
      <h2 title=${service.description}>
        <span class="word">${service.name}</span>
        ${service.state !== "ready" && html`<${State} word=${service.state} />`}
      </h2>
      ${service.error && html`<p class="why">${service.error}</p>`}
      <ul>
        ${service.methods.map((method) => {
          const isChosen = service.name === chosen[0] && method.name === chosen[1];
          return html`<li key=${method.name}>
            <a href=${to("try", service.name, method.name)} aria-current=${isChosen ? "page" : null}>
              <span class="word">${method.name}</span>
              ${method.streams && html`<span class="badge">${t("stream")}</span>`}
            </a>
          </li>`;
        })}
      </ul>
    </section>
  `;
}
