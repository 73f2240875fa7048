// Following a job: the service sends its states as events. They are read with `fetch`, because an `EventSource` cannot send a key.

import { keyHeaders } from "../api";
import type { Job } from "../types";

/** Call `tell` with every state of a job until it ends; a connection that broke is opened again, from the last state seen. */
export async function followJob(jobId: string, tell: (job: Job) => void, signal: AbortSignal): Promise<void> {
  let seen = "";
  while (!signal.aborted) {
    try {
      const headers = { ...keyHeaders(), ...(seen ? { "Last-Event-ID": seen } : {}) };
      const answer = await fetch(`/v1/jobs/${encodeURIComponent(jobId)}/events`, { headers, signal, cache: "no-store" });
      if (answer.status !== 200 || !answer.body) return;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        text += value;
        const events = text.split("\n\n");
        text = events.pop() ?? "";
        for (const event of events) {
          const field = (name: string) => new RegExp(`^${name}: (.*)$`, "m").exec(event)?.[1];
          const data = field("data");
          seen = field("id") ?? seen;
          if (data) tell(JSON.parse(data) as Job);
          if (field("event") === "end") return;
        }
      }
    } catch {
      // The connection broke, or `signal` ended it.
    }
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}
