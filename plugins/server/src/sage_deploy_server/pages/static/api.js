/** Requests to the page's server. The browser adds the login's cookie. */

import { pathOf } from "./text.js";

/** The time that the data is of, in seconds since the epoch. A report replaces this module by one with recorded answers. */
export const now = () => Date.now() / 1000;

export const isRecorded = false;

/** An answer that is an error. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `status ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

/** Fetch what a path shows. Throws `Refused` for an error, and the browser's own error if there is no answer. */
export const get = (path) => ask(path, { headers: { Accept: "application/json" } });

/** Request a change, and return the server's answer. Throws as `get` does. */
export const post = (path, body, headers = {}) => ask(path, { method: "POST", headers: { "Content-Type": "application/json", ...headers }, body: JSON.stringify(body) });

async function ask(path, options) {
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Refused(answer.status, await problemOf(answer));
  return answer.json();
}

/**
 * Call a method, and return the outcome, also of a failure: `status`, `requestId`, `kind`, `ms`, and one of `text`, `bytes` and `problem`.
 *
 * `onItem` gets each item of a stream as text. If the stream breaks, its last item is the outcome's `problem` instead.
 * Throws the browser's own error if there is no answer, or if `signal` aborts the call.
 */
export async function call({ service, method, body, timeout, key }, { signal, onHead, onItem }) {
  const headers = { Accept: "application/x-ndjson, application/json", "Content-Type": "application/json" };
  if (timeout) headers["X-Timeout"] = timeout;
  if (key) headers["X-Key"] = String.fromCharCode(...new TextEncoder().encode(key)); // fetch takes bytes only
  const began = performance.now();
  const answer = await fetch(pathOf(service, method), { method: "POST", headers, body, signal });
  const kind = kindOf(answer.headers.get("Content-Type") ?? "");
  const outcome = { status: answer.status, requestId: answer.headers.get("X-Request-Id") ?? "", kind };
  onHead({ ...outcome, ms: performance.now() - began });
  if (kind === "problem") outcome.problem = await problemOf(answer);
  else if (kind === "stream") outcome.problem = await readItems(answer.body, onItem);
  else if (kind === "bytes") outcome.bytes = new Uint8Array(await answer.arrayBuffer());
  else outcome.text = await answer.text();
  return { ...outcome, ms: performance.now() - began };
}

function kindOf(mediaType) {
  if (mediaType.startsWith("application/problem+json")) return "problem";
  if (mediaType.startsWith("application/x-ndjson")) return "stream";
  return mediaType.startsWith("application/octet-stream") ? "bytes" : "json";
}

async function problemOf(answer) {
  try {
    const problem = await answer.json();
    return typeof problem === "object" && problem !== null ? problem : {};
  } catch {
    return {};
  }
}

/** Pass each line to `onItem`. If the stream broke, return its problem. */
async function readItems(body, onItem) {
  if (body === null) return undefined;
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let problem;
  for (;;) {
    const { done, value } = await reader.read();
    rest += decoder.decode(value, { stream: !done });
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines) {
      problem = brokenBy(line);
      if (problem === undefined) onItem(line);
    }
    if (done) return problem;
  }
}

function brokenBy(line) {
  if (!line.startsWith('{"error":')) return undefined;
  const item = JSON.parse(line);
  return Object.keys(item).length === 1 && typeof item.error?.code === "string" ? item.error : undefined;
}
