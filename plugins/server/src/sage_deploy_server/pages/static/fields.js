/** The fields of a form: an input of the fitting kind for each argument. */

import { t } from "./board/words.js";
import { html } from "./vendor/preact-htm.js";

export function Fields({ fields, values, problems, setValues }) {
  return fields.map((field) => {
    const value = values[field.name] ?? { text: "", asJson: false };
    const change = (more) => setValues({ ...values, [field.name]: { ...value, ...more } });
    return html`<${Field} key=${field.name} field=${field} value=${value} problem=${problems[field.name]} change=${change} />`;
  });
}

function Field({ field, value, problem, change }) {
  const id = `field-${field.name}`;
  const kind = value.asJson ? "json" : field.kind;
  const said = [field.required && t("required"), value.asJson ? t("any JSON") : field.hint].filter(Boolean).join(", ");
  return html`
    <div class="field">
      <div class="label">
        <label for=${id}>${field.name}</label>
        <span class="hint">${said}</span>
        ${field.kind !== "json" &&
        html`<button
          type="button"
          class="link"
          aria-pressed=${value.asJson ? "true" : "false"}
          title=${t("Type the value as JSON, such as null")}
          onClick=${() => change({ asJson: !value.asJson })}
        >
          JSON
        </button>`}
      </div>
      <${Input} id=${id} kind=${kind} field=${field} text=${value.text} problem=${problem} onText=${(text) => change({ text })} />
      ${problem && html`<span class="problem" id=${`${id}-problem`} role="alert">${problem}</span>`}
    </div>
  `;
}

function Input({ id, kind, field, text, problem, onText }) {
  const common = {
    id,
    value: text,
    onInput: (event) => onText(event.target.value),
    "aria-invalid": problem ? "true" : null,
    "aria-describedby": problem ? `${id}-problem` : null,
  };
  const left = field.hasDefault ? t("default: {value}", { value: JSON.stringify(field.default) }) : "";
  if (kind === "boolean" || kind === "choice") {
    const choices = kind === "boolean" ? ["true", "false"] : field.choices;
    return html`
      <select ...${common}>
        <option value="">${field.required ? t("Choose") : left || t("not given")}</option>
        ${choices.map((choice) => html`<option key=${choice} value=${choice}>${choice}</option>`)}
      </select>
    `;
  }
  if (kind === "json") return html`<textarea ...${common} rows="3" spellcheck="false" placeholder=${left} />`;
  const mode = kind === "integer" ? "numeric" : kind === "number" ? "decimal" : null;
  return html`<input ...${common} inputmode=${mode} placeholder=${left} autocomplete="off" spellcheck="false" />`;
}
