/** The language of the page. English texts are the keys; other languages have a file of translations. */

import { CHINESE } from "./chinese.js";

const REMEMBERED = "sage-deploy language";

/** The stored language, if the browser allows storage. */
function remembered() {
  try {
    return localStorage.getItem(REMEMBERED);
  } catch {
    return null;
  }
}

let language = remembered() ?? (navigator.language.startsWith("zh") ? "zh" : "en");
document.documentElement.lang = language;

export const spoken = () => language;

export function speak(wanted) {
  language = wanted;
  document.documentElement.lang = wanted;
  try {
    localStorage.setItem(REMEMBERED, wanted);
  } catch {
    // without storage, the choice lasts until the page closes
  }
}

/** Translate *text* to the page's language, and replace names in braces by their values. */
export function t(text, values = {}) {
  const said = (language === "zh" && Object.hasOwn(CHINESE, text) && CHINESE[text]) || text;
  return said.replace(/{(\w+)}/g, (whole, name) => (Object.hasOwn(values, name) ? String(values[name]) : whole));
}
