// What is searched with: chosen, dropped, recorded, or an asset of the library; its preview and the part that is used.

import { lazy } from "../lazy";
import { useEffect, useRef, useState } from "preact/hooks";
import { formatBytes, formatCut, formatTime } from "../format";
import { release } from "../players";
import { chooseFile } from "./choose";
import { clip, clipFacts, clipPlayer, cut, setClip, suggestTarget } from "./state";

const END = 1e7; // seconds
const Cutter = lazy(() => import("./cutter").then((module) => module.Cutter));
const Recorder = lazy(() => import("./record").then((module) => module.Recorder));

export function ClipBox() {
  const given = clip.value;
  const [isRecording, setRecording] = useState(false);
  const choose = ({ currentTarget }: { currentTarget: HTMLInputElement }) => {
    if (currentTarget.files?.[0]) chooseFile(currentTarget.files[0]);
    currentTarget.value = ""; // the same file may be chosen again
  };
  const part = cut.value;
  return (
    <>
      <label id="drop" class="drop" for="file">
        <input id="file" type="file" accept="audio/*,video/*,image/*" onChange={choose} />
        <span id="file-name" class="name" title={given?.name}>{given ? given.name : "Drop a clip here, or choose one"}</span>
        <span id="file-facts" class="quiet">
          {given ? clipFacts.value || "From the library" : "Sound, film or a picture, any common format"}
        </span>
      </label>
      {given && <Preview key={given.url} />}
      {part && (
        <p class="cut">
          <span>Searches with {formatCut(...part)} of it.</span>
          <button type="button" class="small" onClick={() => (cut.value = null)}>Use all of it</button>
        </p>
      )}
      <div class="row">
        <button type="button" class="small" aria-expanded={isRecording} onClick={() => setRecording(!isRecording)}>Record…</button>
        {given && <button type="button" class="small" onClick={() => setClip(null)}>Remove the clip</button>}
      </div>
      {isRecording && <Recorder onEnd={() => setRecording(false)} />}
    </>
  );
}

function Preview() {
  const given = clip.value!;
  const player = useRef<HTMLVideoElement>(null);
  const [isSilent, setSilent] = useState(false); // it cannot be played here
  const [length, setLength] = useState(0);
  useEffect(() => {
    const element = player.current;
    return () => { if (element) release(element); };
  }, [given.kind]);
  if (given.kind === "image") return <div id="preview"><img src={given.url} alt="Your picture" /></div>;
  if (isSilent) return <div id="preview"><p class="quiet">This browser cannot play the file; the service may still read it.</p></div>;
  const loaded = () => {
    const element = player.current;
    if (!element) return;
    const isFinite = Number.isFinite(element.duration);
    if (!isFinite) element.currentTime = END; // a recording tells its length when its end was sought
    if (given.file) clipFacts.value = (isFinite ? `${formatTime(element.duration)} · ` : "") + formatBytes(given.file.size);
    if (isFinite) setLength(element.duration);
    if (element.currentTime > element.duration - 0.01) element.currentTime = 0;
    if (given.file && given.kind === "video" && element.videoWidth === 0) {
      clip.value = { ...given, kind: "audio" }; // a video file that has only sound
      suggestTarget();
      return;
    }
    clipPlayer.value = element;
  };
  const Player = given.kind as "video";
  return (
    <div id="preview">
      <Player
        key={given.kind} ref={player} src={given.start === undefined ? given.url : `${given.url}#t=${given.start}`} controls preload="metadata"
        playsInline aria-label="Your clip" onLoadedMetadata={loaded} onDurationChange={loaded} onError={() => { clipPlayer.value = null; setSilent(true); }}
      />
      {length > 0.5 && clipPlayer.value && <Cutter key={given.kind} given={given} player={player} length={length} />}
    </div>
  );
}
