// The similarity at each moment as a strip of heat: one stop of the tab key, arrows move inside it.

import { useRef, useState } from "preact/hooks";
import { clamp, formatTime } from "../format";
import type { Result } from "../types";

interface Props {
  result: Result;
  highest: number | null; // all moments look alike if it is null: they mean nothing
  onPlay: (seconds: number) => void;
}

export function Moments({ result, highest, onPlay }: Props) {
  const best = result.best_moment!.index;
  const [at, setAt] = useState(best);
  const strip = useRef<HTMLDivElement>(null);
  const step = (result.end_seconds - result.start_seconds) / result.moments.length;
  const walk = (event: KeyboardEvent) => {
    const last = result.moments.length - 1;
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const number = clamp(next, 0, last);
    setAt(number);
    (strip.current?.children[number] as HTMLElement).focus();
  };
  return (
    <div ref={strip} class="moments" role="group" aria-label="Similarity at each moment" onKeyDown={walk}>
      {result.moments.map((similarity, index) => {
        const seconds = result.start_seconds + index * step;
        const isBest = highest !== null && index === best;
        const label = `${isBest ? "Best moment, " : ""}${formatTime(seconds)}, similarity ${similarity.toFixed(3)}`;
        const part = highest === null ? 0.1 : clamp(similarity / highest, 0, 1);
        return (
          <button
            key={index} type="button" title={label} aria-label={`Play from ${label}`} tabIndex={index === at ? 0 : -1}
            class={isBest ? "is-best" : ""} style={{ "--part": part.toFixed(3) }} onFocus={() => setAt(index)} onClick={() => onPlay(seconds)}
          />
        );
      })}
    </div>
  );
}
