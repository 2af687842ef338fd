/** A form for the arguments of a method, from their JSON Schema. Texts become JSON as they are, so no number is rounded. */

import { t } from "./board/words.js";

const INTEGER = /^-?(0|[1-9]\d*)$/;
const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;

/**
 * The fields of a form, or `null` if the arguments have no names: then the body is one field of JSON.
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

/** What a field takes: `kind` is text, integer, number, boolean, choice or json; `hint` says the same to a person. */
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
 * The body that the values make, as text of JSON, and what is wrong with each of them by the field's name.
 *
 * A value is `{text, asJson}`. A field that is empty is left out, unless it is a text that has to be there.
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

/** What is wrong with a text that should be JSON; an empty text if it is. */
export function jsonProblem(text) {
  try {
    JSON.parse(text);
    return "";
  } catch (error) {
    return t("This is not JSON: {error}", { error: error.message });
  }
}
