// What jobs ask before they go on: a sync that would remove most of a folder failed with `too_many_gone`.

import { find, keyHeaders, make, readProblem } from "./elements.js";

const MAX_JOBS = 100; // the newest; an older question was answered or given up
const KEPT = ["paths", "allow_empty", "settle_seconds", "retry_quarantined", "verify", "follow_links"];

/** Show the questions that are open: those of which no later sync of the same paths ended. */
export function showQuestions(jobs) {
  const seen = new Set();
  const open = jobs.filter((job) => {
    const paths = JSON.stringify(job.request.paths);
    if (job.kind !== "sync" || job.request.dry_run || seen.has(paths)) return false;
    seen.add(paths);
    return job.state === "failed" && job.error.code === "too_many_gone";
  });
  find("questions").replaceChildren(...open.map(ask));
}

export const QUESTIONS = `/v1/jobs?limit=${MAX_JOBS}`;

function ask(job) {
  const note = make("p", { className: "quiet", role: "status" });
  const yes = make("button", { type: "button", text: "Remove them from the index" });
  const box = make("div", { className: "problem" },
    make("strong", { text: "More files are gone than one sync removes without asking" }),
    make("p", { text: job.error.detail }),
    make("div", { className: "actions" }, yes), note);
  yes.addEventListener("click", async () => {
    yes.disabled = true;
    note.textContent = await accept(job);
  });
  return box;
}

/** Ask for the same sync, allowed to remove them; returns what happened, for people. */
async function accept(job) {
  const kept = Object.fromEntries(KEPT.filter((name) => name in job.request).map((name) => [name, job.request[name]]));
  try {
    const answer = await fetch("/v1/jobs", {
      method: "POST",
      headers: { ...keyHeaders(), "Content-Type": "application/json" },
      body: JSON.stringify({ kind: "sync", ...kept, allow_gone: true }),
    });
    if (answer.ok) return "The sync runs again and removes them. The files themselves are not touched.";
    return `Refused: ${readProblem(answer.status, await answer.text()).detail}`;
  } catch {
    return "The service does not answer.";
  }
}
