// A clip from the microphone, the camera or the screen, recorded by the browser.

import { useEffect, useRef, useState } from "preact/hooks";
import { formatTime } from "../format";
import { chooseFile } from "./choose";

type Source = "microphone" | "camera" | "screen";

const TYPES: Record<Source, string[]> = {
  microphone: ["audio/webm;codecs=opus", "audio/mp4", "audio/ogg"],
  camera: ["video/webm;codecs=vp8,opus", "video/mp4", "video/webm"],
  screen: ["video/webm;codecs=vp8,opus", "video/mp4", "video/webm"],
};
const MAX_SECONDS = 600; // as long as a query may be

function open(source: Source): Promise<MediaStream> {
  if (source === "screen") return navigator.mediaDevices.getDisplayMedia({ video: true, audio: true });
  return navigator.mediaDevices.getUserMedia({ audio: true, video: source === "camera" });
}

export function Recorder({ onEnd }: { onEnd: () => void }) {
  const [seconds, setSeconds] = useState(-1);
  const [fault, setFault] = useState("");
  const recorder = useRef<MediaRecorder | null>(null);
  const preview = useRef<HTMLVideoElement>(null);
  useEffect(() => {
    if (seconds < 0) return undefined;
    if (seconds >= MAX_SECONDS) recorder.current?.stop();
    const timer = setTimeout(() => setSeconds(seconds + 1), 1000);
    return () => clearTimeout(timer);
  }, [seconds]);
  useEffect(() => () => recorder.current?.stream.getTracks().forEach((track) => track.stop()), []);
  const start = async (source: Source) => {
    setFault("");
    if (!navigator.mediaDevices) return setFault("Recording needs this page over https, or on this machine.");
    try {
      const stream = await open(source);
      const mimeType = TYPES[source].find((type) => MediaRecorder.isTypeSupported(type));
      const made = new MediaRecorder(stream, mimeType ? { mimeType } : {});
      const parts: Blob[] = [];
      made.ondataavailable = ({ data }) => parts.push(data);
      made.onstop = () => {
        stream.getTracks().forEach((track) => track.stop());
        const type = made.mimeType.split(";")[0]!;
        const name = `${source}-${new Date().toTimeString().slice(0, 8).replaceAll(":", "")}.${type.split("/")[1]}`;
        chooseFile(new File(parts, name, { type }));
        onEnd();
      };
      stream.getVideoTracks()[0]?.addEventListener("ended", () => made.state === "recording" && made.stop());
      recorder.current = made;
      made.start();
      setSeconds(0);
      if (source !== "microphone" && preview.current) {
        preview.current.srcObject = stream;
        await preview.current.play().catch(() => {});
      }
    } catch (error) {
      setFault(error instanceof Error && error.name === "NotAllowedError" ? "The browser was not allowed to record." : `Recording failed: ${error}`);
    }
  };
  return (
    <div class="recorder" role="group" aria-label="Record a clip">
      {seconds < 0 ? (
        <div class="row">
          {(Object.keys(TYPES) as Source[]).map((source) => <button key={source} type="button" onClick={() => void start(source)}>{source}</button>)}
        </div>
      ) : (
        <div class="row">
          <span class="recording" role="status">Recording</span> <span aria-hidden="true">{formatTime(seconds)}</span>
          <button type="button" class="primary" onClick={() => recorder.current?.stop()}>Stop</button>
        </div>
      )}
      <video ref={preview} muted playsInline aria-label="What is recorded" hidden={seconds < 0 || !preview.current?.srcObject} />
      {fault && <p class="quiet" role="alert">{fault}</p>}
    </div>
  );
}
