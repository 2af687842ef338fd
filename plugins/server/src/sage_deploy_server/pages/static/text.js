/** Formats texts: readable JSON, and commands for a terminal. */

/** Maximum width of a value on one line, in columns. */
const COLUMNS = 80;
const STEP = "  ";
const TOKENS = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g;

/** Add line breaks to JSON text. Keeps all digits: JSON.parse would round numbers of more than 53 bits. */
export function indented(text) {
  const tokens = text.match(TOKENS) ?? [];
  let at = 0;

  function value(indent) {
    const token = tokens[at++];
    if (token !== "{" && token !== "[") return token;
    const close = token === "{" ? "}" : "]";
    const inner = indent + STEP;
    const parts = [];
    while (tokens[at] !== close) {
      if (at >= tokens.length) throw new SyntaxError("the text ends within a value");
      let name = "";
      if (token === "{") {
        name = `${tokens[at]}: `;
        at += 2;
      }
      parts.push(name + value(inner));
      if (tokens[at] === ",") at++;
    }
    at++;
    const line = token + parts.join(", ") + close;
    if (!parts.length || (line.length + indent.length <= COLUMNS && !line.includes("\n"))) return line;
    return `${token}\n${inner}${parts.join(`,\n${inner}`)}\n${indent}${close}`;
  }

  try {
    return value("") ?? text;
  } catch {
    return text; // not JSON, or too deep for the browser's stack
  }
}

/** Quote *text* as one word for a shell. */
export function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** The path of a method in the API. */
export function pathOf(service, method) {
  return `/services/${encodeURIComponent(service)}/${encodeURIComponent(method)}`;
}

/** The call as a curl command. It takes the token from a variable, because a page never knows the token. */
export function curlOf({ service, method, body, timeout, key }, streams, origin) {
  const words = ["curl", streams ? "-N" : "-s", '-H "Authorization: Bearer $SAGE_DEPLOY_TOKEN"'];
  if (timeout) words.push(`-H ${quoted(`X-Timeout: ${timeout}`)}`);
  if (key) words.push(`-H ${quoted(`X-Key: ${key}`)}`);
  words.push(body === "" ? "-X POST" : `--data-raw ${quoted(body)}`);
  return [...words, quoted(origin + pathOf(service, method))].join(" ");
}

/** The call as a `sage-deploy call` command: for another terminal of the same user or, with *url*, from elsewhere. */
export function commandOf({ service, method, body, timeout, key }, environment, url) {
  const words = ["sage-deploy", "call", url ? `--url ${quoted(url)}` : `-e ${quoted(environment)}`];
  if (timeout) words.push(`--timeout ${quoted(timeout)}`);
  if (key) words.push(`--key ${quoted(key)}`);
  words.push(quoted(`${service}.${method}`));
  if (body !== "") words.push(quoted(body));
  return words.join(" ");
}

/** Whether the host name always means this machine. */
export function isLoopback(hostname) {
  return ["localhost", "127.0.0.1", "[::1]"].includes(hostname);
}

/** Format milliseconds. */
export function duration(ms) {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 10_000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}
