/** Replaces requests to a server by the answers recorded in this file. */

import { t } from "./board/words.js";

const { time, answers, left } = JSON.parse(document.getElementById("recording").textContent);

/** Time of the recording, in seconds since the epoch. Ages refer to it. */
export const now = () => time;

export const isRecorded = true;

/** What the file leaves out: by kind, how many of how many. */
export const leftOut = left;

/** A recorded answer: `data` or `error`. The same object each time. */
export function recorded(path) {
  const answer = Object.hasOwn(answers, path) ? answers[path] : { error: { status: 404, message: t("This file leaves it out.") } };
  if (answer.history) {
    answer.data = whole(answer.history);
    delete answer.history;
  }
  return answer;
}

/** A history as the server sends it. The file omits empty first rows. */
function whole({ every, end, rows, ...known }) {
  const times = Array.from({ length: rows }, (_, at) => end - (rows - 1 - at) * every);
  const series = Object.entries(known).map(([name, values]) => [name, [...Array(rows - values.length).fill(null), ...values]]);
  return { every, times, ...Object.fromEntries(series) };
}

export async function get(path) {
  const { data, error } = recorded(path);
  if (error) throw error;
  return data;
}

export const post = (path) => get(`POST ${path}`);
