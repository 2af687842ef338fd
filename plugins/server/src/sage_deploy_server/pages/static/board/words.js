/** The language of the page: English texts are their own names, other languages have a file. */

import { CHINESE } from "./chinese.js";

const REMEMBERED = "sage-deploy language";

/** Kept where a browser allows it. */
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
    // it is asked for again next time
  }
}

/** *text* in the language of the page, with values in place of their names in braces. */
export function t(text, values = {}) {
  const said = (language === "zh" && Object.hasOwn(CHINESE, text) && CHINESE[text]) || text;
  return said.replace(/{(\w+)}/g, (whole, name) => (Object.hasOwn(values, name) ? String(values[name]) : whole));
}
