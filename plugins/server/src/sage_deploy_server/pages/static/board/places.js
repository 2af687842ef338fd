/** The screens of nodes with their replicas, and of one replica in full. */

import { html, useState } from "../vendor/preact-htm.js";
import { get, isRecorded } from "../api.js";
import { Actions } from "./actions.js";
import { Latest } from "./lists.js";
import { useData } from "./live.js";
import { Empty, Failed, Meter, Shape, State, Stripes, ago, bytes, clock, fact, millis, moment, moodOf, plain, to } from "./parts.js";
import { t } from "./words.js";

export function Placement({ live }) {
  const { data, error } = useData("/api/v1/nodes", 3);
  if (!data) return html`<h1>${t("Placement")}</h1>${error ? html`<${Empty} text=${t("This server does not tell where replicas are.")} command="sage-deploy status" />` : html`<p class="empty">${t("Loading ...")}</p>`}`;
  return html`
    <h1>${t("Placement")} <span class="soft">${t(data.length === 1 ? "1 node" : "{n} nodes", { n: data.length })}</span></h1>
    <div class="nodes">${data.map((node) => html`<${Node} key=${node.name} node=${node} live=${live} />`)}</div>
  `;
}

function Node({ node }) {
  const amount = (label, pair, shown) =>
    pair?.[1] > 0 &&
    html`<div key=${label}>
      <dt>${label}</dt>
      <dd>${t("{n} / {all} free", { n: shown(pair[0]), all: shown(pair[1]) })}</dd>
      <${Meter} part=${pair[1] - pair[0]} whole=${pair[1]} />
    </div>`;
  const labels = Object.entries(node.labels ?? {});
  return html`<section class="card node">
    <header><h2 title=${node.name}>${node.name}</h2><${State} word=${node.state} /></header>
    <dl class="amounts">${amount("CPU", node.cpu, plain)} ${amount("GPU", node.gpu, plain)} ${amount(t("Memory"), node.memory, bytes)}</dl>
    ${labels.length > 0 && html`<p>${labels.map(([name, value]) => html`<span key=${name} class="badge">${name}=${value}</span> `)}</p>`}
    <ul class="replicas">
      ${node.replicas.map(([service, id, state]) => html`<li key=${`${service}/${id}`}><a href=${to("services", service, id)} title=${`${service} ${id}: ${t(state)}`}><${Shape} mood=${moodOf(state)} />${String(id).startsWith(service) ? id : `${service} ${id}`}${moodOf(state) === "good" ? "" : html` <span class="soft">${t(state)}</span>`}</a></li>`)}
    </ul>
    ${node.replicas.length === 0 && html`<p class="soft">${t("No replica is here.")}</p>`}
    ${node.refused?.map((each) => html`<p key=${each} class="reason warn"><span>${each}</span></p>`)}
  </section>`;
}

export function Replica({ live, name, id }) {
  const path = `/api/v1/services/${encodeURIComponent(name)}`;
  const { data, error } = useData(path, 2);
  const row = live.services.find((each) => each.name === name);
  const found = data?.replicas?.find((each) => each.id === id);
  const events = live.events.filter((each) => each.service === name && each.replica === id);
  if (!data && !error) return html`<p class="empty">${t("Loading ...")}</p>`;
  const back = html`<p><a href=${to("services", name)}>← ${name}</a></p>`;
  if (!found || !row) return html`${back}<${Failed} error=${data ? null : error} /><${Empty} text=${t("{name} has no replica {id} any more; its events are below.", { name, id })} /><${Latest} events=${events} />`;
  return html`
    ${back}
    <div class="head"><h1>${id}</h1><${State} word=${found.state} /><${Actions} live=${live} row=${row} replicas=${data.replicas} only=${id} /></div>
    ${found.error && html`<p class=${`reason ${moodOf(found.state)}`}><span>${found.error}</span></p>`}
    <dl class="facts-row">
      ${fact(t("Node"), found.node)} ${fact(t("Process"), found.pid)} ${fact(t("Runs for"), ago(found.since))}
      ${fact(t("Slots"), `${found.inflight} / ${found.slots}`)} ${fact(t("Threads"), found.threads)} ${fact(t("Abandoned"), found.abandoned)}
      ${fact(t("Restarts"), found.restarts)} ${fact(t("Cores"), plain(found.cpu))}
      ${fact(t("Memory"), bytes(found.memory))} ${fact(t("Told"), found.stats_age > 2 ? t("{time} ago", { time: millis(found.stats_age) }) : null)}
    </dl>
    <section class="card"><h2>${t("Slots")}</h2><${Stripes} stripes=${[[id, found.state, found.slots, found.inflight, found.abandoned ?? 0]]} /></section>
    <${Past} history=${found.history} />
    <${Latest} events=${events} />
    ${!isRecorded && html`<${Stacks} path=${`${path}/replicas/${encodeURIComponent(id)}/stacks`} />`}
  `;
}

function Past({ history }) {
  if (!history?.length) return null;
  return html`<section class="card"><h2>${t("States so far")}</h2>
    <ol class="past">${history.map(([time, state, reason], at) => html`<li key=${at} title=${`${moment(time)} ${reason}`}><${State} word=${state} /><span class="soft">${clock(time)}</span></li>`)}</ol>
  </section>`;
}

function Stacks({ path }) {
  const [found, setFound] = useState({});
  const ask = () => get(path).then((said) => setFound({ text: said.text }), (error) => setFound({ error }));
  return html`<section class="card">
    <header><h2>${t("Stacks of its threads")}</h2><button type="button" onClick=${ask}>${t("Look")}</button></header>
    <${Failed} error=${found.error} />
    ${found.text && html`<pre class="stack" tabindex="0">${found.text}</pre>`}
  </section>`;
}
