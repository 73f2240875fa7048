// Following a job: the service sends its states as events. They are read with `fetch`, because an `EventSource` cannot send a key.

import { isPassing, Problem, send } from "../api";
import { wantsKey } from "../state";
import type { Job } from "../types";

const PAUSE_MILLISECONDS = 2000;

/**
 * Call `tell` with every state of a job until it ends. A connection that broke is opened again, from the last state seen:
 * the service was stopped, or the key is no longer valid and another one is given.
 */
export async function followJob(jobId: string, tell: (job: Job) => void, signal: AbortSignal): Promise<void> {
  let seen = "";
  while (!signal.aborted) {
    try {
      if (!wantsKey.value) {
        const headers: HeadersInit = seen ? { "Last-Event-ID": seen } : {};
        const answer = await send(new Request(`/v1/jobs/${encodeURIComponent(jobId)}/events`, { headers, signal, cache: "no-store" }));
        const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
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
      }
    } catch (error) {
      if (signal.aborted || (error instanceof Problem && !isPassing(error) && error.status !== 401)) return;
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MILLISECONDS));
  }
}
