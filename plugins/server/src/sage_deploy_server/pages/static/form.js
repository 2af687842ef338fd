/** A form for a method's arguments, from their JSON Schema. Input text is copied to the JSON, so no number is rounded. */

import { t } from "./board/words.js";

const INTEGER = /^-?(0|[1-9]\d*)$/;
const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;

/**
 * The fields of a form, or `null` if the arguments have no names. Then one field takes the body as JSON.
 *
 * `more` says whether the method takes further arguments by name.
 */
export function formOf(schema) {
  const form = [schema, ...(schema.anyOf ?? [])].find((each) => each.type === "object" && each.properties);
  if (!form) return null;
  const byOrder = schema.anyOf !== undefined;
  const required = new Set(form.required ?? []);
  const fields = Object.entries(form.properties).map(([name, property]) => {
    const kind = kindOf(property, schema.$defs ?? {});
    return { name, required: required.has(name), default: property.default, hasDefault: "default" in property, ...kind };
  });
  if (fields.length === 0 && byOrder) return null;
  return { fields, more: byOrder || form.additionalProperties !== false };
}

/** What a field takes. `kind` is text, integer, number, boolean, choice or json; `hint` describes it for people. */
function kindOf(property, definitions) {
  const schema = resolved(property, definitions);
  const others = schema.anyOf?.filter((each) => each.type !== "null");
  if (others?.length === 1) {
    const one = kindOf(others[0], definitions);
    return { ...one, hint: t("{hint} or null", { hint: one.hint }) };
  }
  const choices = schema.enum ?? ("const" in schema ? [schema.const] : undefined);
  if (choices?.length && choices.every((each) => typeof each !== "object")) {
    return { kind: "choice", choices: choices.map((each) => JSON.stringify(each)), hint: t("one of these") };
  }
  switch (schema.type) {
    case "string":
      return { kind: "text", hint: schema.contentEncoding ?? schema.format ?? t("text") };
    case "integer":
    case "number":
    case "boolean":
      return { kind: schema.type, hint: t(schema.type) };
    case "array":
      return { kind: "json", hint: t("a JSON array") };
    case "object":
      return { kind: "json", hint: t("a JSON object") + (schema.title ? `: ${schema.title}` : "") };
    default:
      return { kind: "json", hint: t("any JSON") };
  }
}

function resolved(schema, definitions) {
  let found = schema;
  for (let step = 0; found?.$ref !== undefined && step < 20; step++) {
    found = definitions[decodeURIComponent(found.$ref.split("/").pop())];
  }
  return found ?? {};
}

/**
 * Build the body as JSON text from the values. Also returns the problem of each wrong value, by field.
 *
 * A value is `{text, asJson}`. Empty fields are left out, except for required texts.
 */
export function bodyOf(fields, values) {
  const members = [];
  const problems = {};
  for (const field of fields) {
    const { text = "", asJson = false } = values[field.name] ?? {};
    const kind = asJson ? "json" : field.kind;
    if (text === "" && !(field.required && kind === "text")) {
      if (field.required) problems[field.name] = t("This argument is required.");
      continue;
    }
    const problem = problemOf(kind, text);
    if (problem) problems[field.name] = problem;
    else members.push(`${JSON.stringify(field.name)}: ${kind === "text" ? JSON.stringify(text) : text.trim()}`);
  }
  return { body: members.length ? `{${members.join(", ")}}` : "", problems };
}

function problemOf(kind, text) {
  if (kind === "integer" && !INTEGER.test(text.trim())) return t("Give a whole number, such as 3.");
  if (kind === "number" && !NUMBER.test(text.trim())) return t("Give a number, such as 3 or 0.5.");
  return kind === "json" ? jsonProblem(text) : "";
}

/** The problem of a text that should be JSON; "" if it is JSON. */
export function jsonProblem(text) {
  try {
    JSON.parse(text);
    return "";
  } catch (error) {
    return t("This is not JSON: {error}", { error: error.message });
  }
}
