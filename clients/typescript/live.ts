// What tests/service/client/test_clients.py runs against a live server: address, file, folder, address that is overloaded once.

import { readFileSync } from "node:fs";
import { createFoley, followJob, FoleyError, listAssets } from "./client";

const [address, file, folder, busy] = process.argv.slice(2) as [string, string, string, string];
const foley = createFoley({ address });

const form = new FormData();
form.set("file", new Blob([readFileSync(file)]), "query");
form.set("target", "video");
form.set("from", "video");
const byClip = await foley.POST("/v1/search", { body: form as never, bodySerializer: (body) => body as never });
const byWords = await foley.POST("/v1/search", { body: { text: "long", target: "audio" } });

const assets: string[] = [];
for await (const asset of listAssets(foley, { limit: 2 })) assets.push(asset.asset_id);

const started = await foley.POST("/v1/jobs", { body: { kind: "index", paths: [folder] } });
let looks = 0;
const job = await followJob(foley, started.data!.job_id, () => looks++);

let code = "";
try {
  await foley.GET("/v1/assets/{asset_id}", { params: { path: { asset_id: "0".repeat(64) } } });
} catch (error) {
  if (error instanceof FoleyError) code = `${error.status} ${error.code}`;
}
const seen = (await foley.POST("/v1/collections", { body: { name: "rain" } })).data!;
const change = { path: { collection_id: seen.collection_id }, header: { "If-Match": seen.etag } };
const wind = await foley.PATCH("/v1/collections/{collection_id}", { params: change, body: { name: "wind" } });
const late = await foley.DELETE("/v1/collections/{collection_id}", { params: change }).catch((error: FoleyError) => error);
await foley.DELETE("/v1/collections/{collection_id}", { params: { path: change.path } });
const patient = await createFoley({ address: busy }).GET("/livez");

console.log(
  JSON.stringify({
    by_clip: byClip.data!.results[0]!.asset_id,
    by_words: byWords.data!.results.map((result) => result.asset_id),
    assets,
    state: job.state,
    looks,
    code,
    changed: [wind.data!.name, late instanceof FoleyError ? `${late.status} ${late.code}` : ""],
    patient: patient.data,
  }),
);
