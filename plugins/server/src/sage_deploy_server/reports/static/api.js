/** In place of requests to a server: answers that were recorded once, in the file that this page is in. */

import { t } from "./board/words.js";

const { time, answers, left } = JSON.parse(document.getElementById("recording").textContent);

/** What is shown is of then, and ages are those of then: seconds since the epoch. */
export const now = () => time;

export const isRecorded = true;

/** What the file has not got: by its kind, how many of how many are there. */
export const leftOut = left;

/** What was answered: `data` or `error`; the same object each time. */
export function recorded(path) {
  const answer = Object.hasOwn(answers, path) ? answers[path] : { error: { status: 404, message: t("This file leaves it out.") } };
  if (answer.history) {
    answer.data = whole(answer.history);
    delete answer.history;
  }
  return answer;
}

/** A history as a server tells it: in the file, it begins where something is known. */
function whole({ every, end, rows, ...known }) {
  const times = Array.from({ length: rows }, (_, at) => end - (rows - 1 - at) * every);
  const series = Object.entries(known).map(([name, values]) => [name, [...Array(rows - values.length).fill(null), ...values]]);
  return { every, times, ...Object.fromEntries(series) };
}

export async function look(path) {
  const { data, error } = recorded(path);
  if (error) throw error;
  return data;
}

export const post = (path) => look(`POST ${path}`);
