// The answer to a search: what was found, why there is nothing, and more when the end of the list comes near.

import { useEffect, useRef } from "preact/hooks";
import { count, NAMES } from "../format";
import { isEmpty } from "../state";
import type { Answer } from "../types";
import { more } from "./ask";
import { ResultCard } from "./result";
import { answer, asked, clip, problem, progress, results, text } from "./state";

const WHY_NONE: Record<string, string> = {
  nothing_to_search: "the library has none",
  nothing_passes_filter: "nothing in the library passes the filter",
  below_min_score: "none reaches the minimum score",
  below_min_probability: "none reaches the minimum probability",
  no_further_results: "there are no more",
  no_word_found: "no name and no metadata has half of the words",
};

const CANNOT_TELL = "This release tells what belongs together no better than chance: scores and order mean nothing here.";

function describeQuery(found: Answer): string {
  const { name, text } = asked.value;
  if (found.from === "text") return `for “${text}”`;
  if (found.from === "mixed") return `with ${name} and “${text}”`;
  return `with the ${NAMES[found.from]} of ${name}`;
}

function describe(found: Answer): string {
  const from = describeQuery(found);
  const number = results.value.length;
  const first = number
    ? `${found.next_offset ? "The first " : ""}${count(number, NAMES[found.target])} found ${from}, best first. Bundle ${found.bundle_id}.`
    : `No ${NAMES[found.target]} found ${from}: ${WHY_NONE[found.reason ?? ""] ?? "the service does not say why"}. Release ${found.release_id}.`;
  return [
    first,
    found.query.is_partial ? "Less than 95 % of the clip could be decoded." : "",
    found.probability_reason === "cannot_tell" ? CANNOT_TELL : "",
    found.bundle_id.startsWith("starter-") ? "The starter bundle only knows synthetic clips." : "",
  ].filter(Boolean).join(" ");
}

/** Scroll to what has just appeared if it is out of sight, as on a phone. */
function useInSight(isThere: boolean) {
  const element = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const top = element.current?.getBoundingClientRect().top ?? 0;
    if (isThere && top > 0.8 * innerHeight) element.current?.scrollIntoView({ block: "start" });
  }, [isThere]);
  return element;
}

export function AnswerList() {
  const found = answer.value;
  const fault = problem.value;
  const isBusy = progress.value !== undefined;
  const place = useInSight(found !== null || fault !== null);
  // One scale for all strips, so that they can be compared.
  const highest = found?.probability_reason === "cannot_tell" ? null
    : Math.max(0.01, ...results.value.map((result) => result.best_moment?.similarity ?? 0));
  return (
    <div ref={place} class="answer">
      {fault && (
        <div id="problem" class="problem" role="alert">
          <strong>{fault.title}</strong>
          <p>{fault.detail}</p>
          {fault.errors.length > 0 && <ul>{fault.errors.map(({ parameter, message }) => <li key={parameter}>{parameter}: {message}</li>)}</ul>}
        </div>
      )}
      {!isEmpty.value && !isBusy && !found && !fault && (
        <p id="waiting" class="quiet">
          {clip.value || text.value ? "Press Search. The best matches appear here."
            : "Choose a clip or write what you look for, and search. The best matches appear here."}
        </p>
      )}
      <p id="answer" role="status" class="quiet">{found && describe(found)}</p>
      <ol id="results">
        {found && results.value.map((result, index) => (
          <ResultCard key={result.asset_id} result={result} rank={index + 1} answer={found} highest={highest} />
        ))}
      </ol>
      {found?.next_offset != null && <Further key={found.next_offset} />}
    </div>
  );
}

/** The end of the list: asks for the next page when it comes near, or by its button. */
function Further() {
  const end = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const watch = new IntersectionObserver(([entry]) => entry?.isIntersecting && more(), { rootMargin: "400px" });
    if (end.current) watch.observe(end.current);
    return () => watch.disconnect();
  }, []);
  return <div ref={end} class="further"><button type="button" onClick={more}>More results</button></div>;
}
