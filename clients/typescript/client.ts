// A client of `foley serve`. Every path, parameter and answer is typed by schema.ts, which `make clients` makes of /openapi.json.
//
//   const foley = createFoley({ address: "http://127.0.0.1:8000" });
//   const { data } = await foley.POST("/v1/search", { body: { text: "rain", target: "audio" } });

import createClient, { type Client } from "openapi-fetch";
import type { components, paths } from "./schema";

export type Schemas = components["schemas"];
export type Foley = Client<paths>;
export type Job = Schemas["JobBody"];

const LOOK_MILLISECONDS = 300;

/** Why the service refused: `code` is stable, `status` that of the answer. */
export class FoleyError extends Error {
  constructor(readonly status: number, readonly code: string, detail: string) {
    super(detail);
  }
}

export interface Options {
  address: string;
  key?: string;
  /** How often a request is sent at most, if the service is overloaded. */
  attempts?: number;
  /** How a request is sent, in place of `fetch`: the page of the service adds the key of its tab, for instance. */
  send?: (request: Request) => Promise<Response>;
}

const sleep = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** A client that waits as long as `Retry-After` says and throws `FoleyError` for every other refusal. */
export function createFoley({ address, key, attempts = 4, send = (request) => fetch(request) }: Options): Foley {
  const patient = async (request: Request): Promise<Response> => {
    for (let left = attempts - 1; ; left--) {
      const answer = await send(left > 0 ? request.clone() : request);
      const seconds = Number(answer.headers.get("Retry-After") ?? Number.NaN);
      if (answer.status !== 429 || Number.isNaN(seconds) || left <= 0) return answer;
      await answer.body?.cancel();
      await sleep(seconds * 1000);
    }
  };
  const foley = createClient<paths>({ baseUrl: address, fetch: patient, ...(key ? { headers: { "X-API-Key": key } } : {}) });
  foley.use({
    async onResponse({ response }) {
      if (response.ok) return;
      const problem: Record<string, unknown> = await response.json().catch(() => ({}));
      throw new FoleyError(response.status, String(problem.code ?? ""), String(problem.detail ?? `status ${response.status}`));
    },
  });
  return foley;
}

/** Every asset of the library, page by page. */
export async function* listAssets(foley: Foley, query: NonNullable<paths["/v1/assets"]["get"]["parameters"]["query"]> = {}) {
  for (let cursor: string | null | undefined; cursor !== null; ) {
    const { data } = await foley.GET("/v1/assets", { params: { query: cursor ? { ...query, cursor } : query } });
    yield* data!.assets;
    cursor = data!.next_cursor;
  }
}

/** Wait for the end of a job, and tell its progress. */
export async function followJob(foley: Foley, jobId: string, onProgress: (job: Job) => void = () => {}): Promise<Job> {
  for (;;) {
    const { data } = await foley.GET("/v1/jobs/{job_id}", { params: { path: { job_id: jobId } } });
    onProgress(data!);
    if (!["queued", "running"].includes(data!.state)) return data!;
    await sleep(LOOK_MILLISECONDS);
  }
}
