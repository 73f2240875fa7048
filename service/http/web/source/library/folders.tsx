// Adding folders, which starts a job; and files that failed, with the reason and another try.

import { useEffect, useState } from "preact/hooks";
import { foley, lineOf, read } from "../api";
import { goTo, say } from "../state";
import type { Job, JobFile } from "../types";

const startJob = (kind: "index" | "sync", paths: string[], more: { retry_quarantined?: boolean } = {}): Promise<Job> =>
  read(foley.POST("/v1/jobs", { body: { kind, paths, ...more } }));

export function AddFolders() {
  const [paths, setPaths] = useState("");
  const [isSync, setSync] = useState(false);
  const [said, setSaid] = useState("");
  const submit = async (event: Event) => {
    event.preventDefault();
    const given = paths.split("\n").map((path) => path.trim()).filter(Boolean);
    if (!given.length) return setSaid("Write at least one folder, with its whole path.");
    try {
      const job = await startJob(isSync ? "sync" : "index", given);
      goTo("jobs", job.job_id);
    } catch (error) {
      setSaid(lineOf(error));
    }
  };
  return (
    <form class="hint stack" onSubmit={submit}>
      <label class="field">Folders on the machine of the service, one a line
        <textarea id="folders" rows={2} placeholder="/media/rain" value={paths} onInput={(event) => setPaths(event.currentTarget.value)} />
      </label>
      <label><input type="checkbox" checked={isSync} onChange={(event) => setSync(event.currentTarget.checked)} /> Also remove what is gone (sync)</label>
      <div class="row"><button type="submit">Start</button><span class="quiet" role="status">{said}</span></div>
    </form>
  );
}

const NUM_JOBS = 20;

/** Files that failed in the newest jobs; the last word of each path. */
async function readFailed(): Promise<JobFile[]> {
  const { jobs } = await read(foley.GET("/v1/jobs", { params: { query: { limit: NUM_JOBS } } }));
  const found = new Map<string, JobFile>();
  for (const job of jobs.filter((one) => one.kind !== "release").reverse()) {
    const { files } = await read(foley.GET("/v1/jobs/{job_id}/files", { params: { path: { job_id: job.job_id }, query: { limit: 1000 } } }));
    for (const file of files) found.set(file.path, file);
  }
  return [...found.values()].filter(({ outcome }) => outcome === "failed" || outcome === "quarantined");
}

export function Quarantine() {
  const [files, setFiles] = useState<JobFile[] | null>(null);
  const [said, setSaid] = useState("Looking…");
  useEffect(() => {
    readFailed().then((found) => {
      setFiles(found);
      setSaid(found.length ? "" : "No file failed in the newest jobs.");
    }, (error) => setSaid(lineOf(error)));
  }, []);
  const retry = async (paths: string[]) => {
    await startJob("index", paths, { retry_quarantined: true }).then((job) => {
      say("Tried again: see the job.");
      goTo("jobs", job.job_id);
    }, (error) => setSaid(lineOf(error)));
  };
  return (
    <div class="hint stack">
      <p role="status" class="quiet">{said}</p>
      {files && files.length > 1 && <button type="button" onClick={() => void retry(files.map(({ path }) => path))}>Retry all</button>}
      <ul class="plain">
        {files?.map((file) => (
          <li key={file.path} class="pair-row">
            <span><span class="name">{file.path}</span> <span class="quiet">{file.outcome}: {file.reason}</span></span>
            <button type="button" class="small" onClick={() => void retry([file.path])}>Retry</button>
          </li>
        ))}
      </ul>
    </div>
  );
}
