// One result: its moments as a strip over its waveform or filmstrip, a player, and what can be done with it.

import { useEffect, useRef, useState } from "preact/hooks";
import { assetAddress, Problem, send } from "../api";
import { count, formatPercent, formatSpan, formatTime, NAMES, nameOf } from "../format";
import { lazy } from "../lazy";
import { offset, paired, playFrom, playTogether, release, setOffset } from "../players";
import { say } from "../state";
import type { Answer, Modality, Result } from "../types";
import { saveSegment } from "../segments";
import type { Span } from "../strip";
import { addToBasket } from "../work/collections";
import { Filmstrip, Waveform } from "../waveform";
import { follow } from "./follow";
import { Moments } from "./moments";
import { asked, clip, clipPlayer } from "./state";

const AssetStrip = lazy(() => import("../asset_strip").then((module) => module.AssetStrip));
const Matrix = lazy(() => import("./matrix").then((module) => module.Matrix));

interface Props {
  result: Result;
  rank: number;
  answer: Answer;
  highest: number | null;
}

export function ResultCard({ result, rank, answer, highest }: Props) {
  const player = useRef<HTMLVideoElement>(null);
  const [silence, setSilence] = useState(""); // why it cannot be played
  const [showsMatrix, setShowsMatrix] = useState(false);
  const [isOpen, setOpen] = useState(false); // somebody plays it: only then it can be cut, and costs more than a picture
  const [cut, setCut] = useState<Span | null>(null);
  const name = nameOf(result.path);
  const span: Span = [result.start_seconds, result.end_seconds];
  const seek = (seconds: number) => player.current && playFrom(player.current, seconds);
  const closed = answer.target === "audio"
    ? <Waveform assetId={result.asset_id} start={span[0]} end={span[1]} onSeek={seek} />
    : <Filmstrip assetId={result.asset_id} start={span[0]} end={span[1]} />;
  const canPair = answer.target !== answer.from && clipPlayer.value !== null && !silence;
  const hasMoments = result.best_moment !== null;
  return (
    <li data-card tabIndex={-1} class={silence ? "has-no-player" : ""} aria-label={name}>
      <div class="title">
        <span class="rank">{rank}.</span>
        <span class="name" title={result.path}>{name}</span>
      </div>
      <div class="facts">
        {hasMoments && <Score result={result} highest={highest} isBounded={answer.similarity === "cosine"} />}
        {!isOpen ? closed
          : <AssetStrip assetId={result.asset_id} shows={[answer.target]} span={span} player={player} cut={cut} onCut={setCut} onSeek={seek} placeholder={closed} />}
        {hasMoments && <Moments result={result} highest={highest} onPlay={seek} />}
        <Times result={result} answer={answer} highest={highest} />
      </div>
      <div class="play">
        {silence ? <p class="quiet">{silence}</p>
          : <Player result={result} kind={answer.target} name={name} player={player} onPlay={() => setOpen(true)} onSilence={setSilence} />}
        {canPair && <PairControls result={result} player={player} target={answer.target} />}
        <Actions result={result} span={cut ?? span} answer={answer} matrix={hasMoments && clip.value !== null ? () => setShowsMatrix(!showsMatrix) : null} />
        {showsMatrix && <Matrix result={result} answer={answer} />}
      </div>
    </li>
  );
}

/** The score, with a bar if it has bounds; `highest` is null if it means nothing. */
function Score({ result, highest, isBounded }: { result: Result; highest: number | null; isBounded: boolean }) {
  const { score, moments, match_probability: probability } = result;
  const title = `Mean similarity of ${count(moments.length, "moment")}${isBounded ? ", at most 1" : ""}`;
  return (
    <div class="score">
      <span class="quiet">score</span>
      <span title={title}>
        {score?.toFixed(3)}
        {probability !== null && (
          <span class="quiet" title="How often a result with this score is a match, learned from this library"> · {formatPercent(probability)} likely</span>
        )}
      </span>
      {highest !== null && isBounded && (
        <span class="track" aria-hidden="true"><span style={{ width: `${100 * Math.min(Math.max(score ?? 0, 0), 1)}%` }} /></span>
      )}
    </div>
  );
}

function Times({ result, answer, highest }: { result: Result; answer: Answer; highest: number | null }) {
  return (
    <div class="times quiet">
      {result.found_by.includes("words") && <span>named so</span>}
      <span>{formatSpan(result.start_seconds, result.end_seconds)}</span>
      {highest !== null && result.moments.length > 1 && <span>best at {formatTime(result.best_moment!.time_seconds)}</span>}
      {answer.query.num_segments > 1 && result.best_moment && (
        <span>fits {formatSpan(result.query_start_seconds, result.query_end_seconds)} of your clip</span>
      )}
    </div>
  );
}

interface PlayerProps {
  result: Result;
  kind: Modality;
  name: string;
  player: { current: HTMLVideoElement | null };
  onPlay: () => void;
  onSilence: (why: string) => void;
}

/** A player, positioned at the best moment; it loads when it comes into view. */
function Player({ result, kind, name, player, onPlay, onSilence }: PlayerProps) {
  const media = assetAddress(result.asset_id, "/media");
  useEffect(() => {
    const element = player.current!;
    const watch = new IntersectionObserver(([entry]) => {
      if (!entry?.isIntersecting) return;
      watch.disconnect();
      element.src = `${media}#t=${result.best_moment?.time_seconds ?? result.start_seconds}`;
    }, { rootMargin: "200px" });
    watch.observe(element);
    return () => {
      watch.disconnect();
      release(element);
    };
  }, [media]);
  /** Why it cannot be played: its file is gone, or the browser does not know the format. */
  const explain = async () => {
    if (!player.current?.hasAttribute("src")) return; // released, not failed
    const refused = await send(new Request(media, { headers: { Range: "bytes=0-0" } })).then(() => null, (error: unknown) => error);
    onSilence(refused instanceof Problem && refused.status ? refused.line : "This browser cannot play the file's format.");
  };
  const Kind = kind as "video";
  return <Kind ref={player} controls preload="metadata" playsInline aria-label={`${NAMES[kind]} of ${name}`} onPlay={onPlay} onError={explain} />;
}

/** The sound under the query's picture, or the picture over the query's sound, with an offset between them. */
function PairControls({ result, player, target }: { result: Result; player: { current: HTMLVideoElement | null }; target: Modality }) {
  const isOn = paired.value !== null && paired.value === player.current;
  const start = () => {
    if (!clipPlayer.value || !player.current) return;
    if (target === "audio") clipPlayer.value.scrollIntoView({ block: "nearest" });
    playTogether(clipPlayer.value, player.current, {
      muted: target === "audio" ? clipPlayer.value : player.current, at: result.query_start_seconds, start: result.start_seconds,
    });
  };
  const seconds = offset.value;
  const said = seconds === 0 ? "in step" : `${Math.abs(seconds).toFixed(2)} s ${seconds > 0 ? "later" : "earlier"}`;
  return (
    <div class="pair">
      <button type="button" data-key="p" aria-pressed={isOn} onClick={start}>Play with your {target === "audio" ? "picture" : "sound"}</button>
      {isOn && (
        <label class="offset">
          <span>Offset: {said}</span>
          <input type="range" min={-5} max={5} step={0.05} value={seconds} aria-valuetext={said}
            onInput={(event) => setOffset(Number(event.currentTarget.value))} onDblClick={() => setOffset(0)} />
        </label>
      )}
    </div>
  );
}

function Actions({ result, span: [start, end], answer, matrix }: { result: Result; span: Span; answer: Answer; matrix: (() => void) | null }) {
  const { target: found } = answer;
  const other: Modality = found === "audio" ? "video" : "audio";
  const name = nameOf(result.path);
  const media = assetAddress(result.asset_id, "/media");
  const onwards = (wanted: Modality) => follow(result, found, wanted, result.start_seconds);
  const drag = (event: DragEvent) => {
    const kind = found === "audio" ? "audio/*" : "video/*";
    event.dataTransfer?.setData("DownloadURL", `${kind}:${name.replaceAll(":", "_")}:${new URL(media, location.href)}`);
    event.dataTransfer?.setData("text/plain", result.path);
  };
  const item = {
    asset_id: result.asset_id, start_seconds: start, end_seconds: end, modality: found,
    query: asked.value.text || asked.value.name || null,
  };
  return (
    <div class="tools" role="group" aria-label={`What to do with ${name}`}>
      <button type="button" data-key="b" onClick={() => void addToBasket(item, name)}>To the basket</button>
      <button type="button" data-key="m" onClick={() => onwards(found)}>More like this</button>
      <button type="button" data-key="o" onClick={() => onwards(other)}>Find its {NAMES[other]}</button>
      <button type="button" data-key="d" onClick={() => void saveSegment(result.asset_id, { start, end, modality: found })}>Download the segment</button>
      <button type="button" onClick={() => void navigator.clipboard.writeText(result.path).then(() => say("Path copied."), () => say("The browser does not allow it."))}>Copy the path</button>
      <a class="button" href={media} download={name} draggable onDragStart={drag} title="Drag it to your desktop or editor, or press to save it">Drag the file out</a>
      {matrix && <button type="button" onClick={matrix}>Similarity map</button>}
    </div>
  );
}
