// Jobs: what runs, how far it is, what became of each; live while it is looked at.

import { useEffect, useState } from "preact/hooks";
import type { Schemas } from "foley-client";
import { foley, lineOf, read } from "../api";
import { count, formatDate, formatTime } from "../format";
import { place, showLibrary } from "../state";
import type { Job } from "../types";
import { followJob } from "./follow";

const ENDED = ["done", "failed", "cancelled"];

export function Jobs() {
  const [jobs, setJobs] = useState<Job[] | null>(null);
  const [cursor, setCursor] = useState<string | null>(null);
  const [fault, setFault] = useState("");
  const load = async (from: string | null) => {
    try {
      const page = await read(foley.GET("/v1/jobs", { params: { query: { limit: 25, ...(from ? { cursor: from } : {}) } } }));
      setJobs((before) => [...(from ? before ?? [] : []), ...page.jobs]);
      setCursor(page.next_cursor);
    } catch (error) {
      setFault(lineOf(error));
    }
  };
  useEffect(() => void load(null), [place.value]);
  return (
    <div class="room">
      <section class="panel" aria-labelledby="jobs-title">
        <div class="bar">
          <h2 id="jobs-title">Jobs</h2>
          <a class="button" href="#/library">Add folders in the library</a>
        </div>
        <p role="alert" class="fault">{fault}</p>
        {jobs?.length === 0 && <p class="quiet">No job was started yet.</p>}
        <ul class="plain items">
          {jobs?.map((job) => <JobRow key={job.job_id} job={job} isChosen={job.job_id === place.value} onFault={setFault} />)}
        </ul>
        {cursor && <button type="button" onClick={() => void load(cursor)}>Older jobs</button>}
      </section>
    </div>
  );
}

function JobRow({ job: given, isChosen, onFault }: { job: Job; isChosen: boolean; onFault: (fault: string) => void }) {
  const [job, setJob] = useState(given);
  const [turn, setTurn] = useState(0);
  const params = { path: { job_id: job.job_id } };
  const isOver = ENDED.includes(job.state);
  useEffect(() => {
    if (ENDED.includes(job.state)) {
      if (!job.report) read(foley.GET("/v1/jobs/{job_id}", { params })).then(setJob, () => {});
      return undefined;
    }
    const stop = new AbortController();
    void followJob(job.job_id, (next) => {
      setJob(next);
      if (ENDED.includes(next.state)) void showLibrary();
    }, stop.signal);
    return () => stop.abort();
  }, [turn]);
  const tell = async (what: "cancel" | "retry") => {
    try {
      setJob(await read(what === "cancel" ? foley.POST("/v1/jobs/{job_id}:cancel", { params }) : foley.POST("/v1/jobs/{job_id}:retry", { params })));
      onFault("");
      if (what === "retry") setTurn(turn + 1);
    } catch (error) {
      onFault(lineOf(error));
    }
  };
  const progress: Partial<Omit<Schemas["ProgressBody"], "stages"> & { step: string }> = job.progress;
  const request: Partial<Schemas["JobRequest"] & Schemas["ReleaseRequest"]> = job.request;
  const report: Partial<Schemas["ReportBody"] & Schemas["ReleaseJobReportBody"]> | null = job.report;
  const { num_files: files = 0, num_done: done = 0, left_seconds: left, segments_per_second: speed } = progress;
  const what = job.kind === "release" ? `Build a release of ${request.bundle ?? "a bundle"}` : `${job.kind === "sync" ? "Sync" : "Index"} ${request.paths?.join(", ")}`;
  const failed = report?.files?.failed || progress.num_failed;
  return (
    <li class={isChosen ? "is-chosen" : ""} data-card tabIndex={-1}>
      <div class="grow">
        <span class="name">{what}</span>
        <span class={`state is-${job.state}`}>{job.is_cancelling ? "cancelling" : job.state}</span>
        <span class="quiet"> {formatDate(job.created_at)}</span>
        {!isOver && (
          <>
            <progress max={Math.max(files, 1)} value={files ? done : undefined} aria-label={`Progress of ${what}`} />
            <span class="quiet">
              {progress.step ?? (files ? `${done} of ${count(files, "file")}` : "looking for files")}
              {left != null && ` · about ${formatTime(left)} left`}
              {speed ? ` · ${speed.toFixed(1)} segments/s` : ""}
            </span>
          </>
        )}
        {isOver && report?.files && <Counts files={report.files} seconds={report.seconds} />}
        {job.error && <p class={isOver ? "fault" : "quiet"}>{job.error.detail}</p>}
      </div>
      <div class="row">
        {!isOver && <button type="button" class="small" onClick={() => void tell("cancel")}>Cancel</button>}
        {isOver && (job.state !== "done" || Boolean(failed)) && <button type="button" class="small" onClick={() => void tell("retry")}>Retry</button>}
      </div>
    </li>
  );
}

function Counts({ files, seconds }: { files: Record<string, number>; seconds?: number | undefined }) {
  const said = Object.entries(files).filter(([, number]) => number > 0).map(([name, number]) => `${number} ${name.replaceAll("_", " ")}`);
  return <p class="quiet">{said.join(", ") || "nothing to do"}{seconds !== undefined && ` · ${formatTime(Math.ceil(seconds))}`}</p>;
}
