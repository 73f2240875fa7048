// The audit: files whose sound does not fit their picture, heard with and without the measured offset, and marked.

import { useRef, useState } from "preact/hooks";
import type { Schemas } from "foley-client";
import { assetAddress, foley, lineOf, ofAsset, read } from "../api";
import { count, formatPercent, nameOf } from "../format";
import { playTogether, stopPair } from "../players";
import { say } from "../state";
import type { Finding, Mark } from "../types";
import { useNear } from "../waveform";

const MARKS: [Mark, string][] = [["fixed", "Fixed"], ["not_a_fault", "Not a fault"]];
const WORDS: Record<Finding["verdict"], string> = {
  mismatch: "sound of another file", silent: "silent", shifted: "out of step", cannot_tell: "cannot tell", fits: "fits",
};

export function AuditPage() {
  const [audit, setAudit] = useState<Schemas["Audit"] | null>(null);
  const [said, setSaid] = useState("");
  const [isAll, setAll] = useState(false);
  const [showsMarked, setShowsMarked] = useState(false);
  const run = async () => {
    setSaid("Looking at every file with sound and picture…");
    try {
      setAudit((await read(foley.GET("/v1/audit", { params: { query: { limit: 1000, include_marked: showsMarked } } }))) as Schemas["Audit"]);
      setSaid("");
    } catch (error) {
      setSaid(lineOf(error));
    }
  };
  const mark = async (finding: Finding, chosen: Mark | null) => {
    await foley.PUT("/v1/audit/marks/{asset_id}", { params: ofAsset(finding.asset_id), body: { mark: chosen } }).then(() => {
      setAudit((before) => before && { ...before, findings: before.findings.map((one) => (one.asset_id === finding.asset_id ? { ...one, mark: chosen } : one)) });
      say(chosen ? "Marked: the next audit leaves it out." : "The mark is gone.");
    }, (error) => say(lineOf(error)));
  };
  const shown = audit?.findings.filter(({ verdict }) => isAll || !["fits", "cannot_tell"].includes(verdict)) ?? [];
  return (
    <div class="room">
      <section class="panel" aria-labelledby="audit-title">
        <div class="bar">
          <h2 id="audit-title">Audit</h2>
          <button type="button" class="primary" onClick={() => void run()}>Look for files whose sound does not fit</button>
          <label><input type="checkbox" checked={isAll} onChange={(event) => setAll(event.currentTarget.checked)} /> also those that fit</label>
          <label><input type="checkbox" checked={showsMarked} onChange={(event) => setShowsMarked(event.currentTarget.checked)} /> also marked ones</label>
        </div>
        <p role="status" class="quiet">
          {said || (audit && `Of ${count(audit.num_files, "file")} with sound and picture: ` +
            Object.entries(audit.verdicts).map(([verdict, number]) => `${number} ${WORDS[verdict as Finding["verdict"]] ?? verdict}`).join(", ") +
            `.${audit.num_marked ? ` ${audit.num_marked} marked before.` : ""}`)}
        </p>
        <ul class="plain items">
          {shown.map((finding) => <Row key={finding.asset_id} finding={finding} onMark={(chosen) => void mark(finding, chosen)} />)}
        </ul>
      </section>
    </div>
  );
}

function Row({ finding, onMark }: { finding: Finding; onMark: (mark: Mark | null) => void }) {
  const picture = useRef<HTMLVideoElement>(null);
  const sound = useRef<HTMLAudioElement>(null);
  const name = nameOf(finding.path);
  const media = assetAddress(finding.asset_id, "/media");
  const late = finding.offset_seconds;
  const asIs = () => {
    stopPair();
    void picture.current?.play().catch(() => {});
  };
  /** The picture without its sound, and the sound by itself, moved by the offset. */
  const mended = () => {
    if (!picture.current || !sound.current) return;
    sound.current.src ||= media;
    const at = Math.max(picture.current.currentTime, Math.max(-late, 0));
    playTogether(picture.current, sound.current, { muted: picture.current, at, start: at + late });
  };
  const [row, isNear] = useNear<HTMLLIElement>();
  return (
    <li ref={row} data-card tabIndex={-1} aria-label={name}>
      <div class="grow stack">
        <span class="name" title={finding.path}>{name}</span>
        <span>
          <span class={`state is-${finding.verdict}`}>{WORDS[finding.verdict]}</span>
          <span class="quiet">
            {late !== 0 && ` sound ${Math.abs(late).toFixed(2)} s ${late > 0 ? "late" : "early"} ·`}
            {finding.match_probability !== null && ` ${formatPercent(finding.match_probability)} likely its own ·`} score {finding.score.toFixed(3)}
          </span>
        </span>
        <div class="row">
          <button type="button" class="small" onClick={asIs}>A: as it is</button>
          {late !== 0 && <button type="button" class="small" onClick={mended}>B: moved by {Math.abs(late).toFixed(2)} s</button>}
          {MARKS.map(([value, label]) => (
            <button key={value} type="button" class="small" aria-pressed={finding.mark === value}
              onClick={() => onMark(finding.mark === value ? null : value)}>{label}</button>
          ))}
          <a class="small" href={`#/library/${finding.asset_id}`}>in the library</a>
        </div>
      </div>
      <video ref={picture} src={media} poster={isNear ? assetAddress(finding.asset_id, "/thumbnail") : undefined} controls preload="none" playsInline aria-label={name} />
      <audio ref={sound} preload="none" aria-label={`Sound of ${name}, moved`} hidden />
    </li>
  );
}
