// The search: the clip and the words on one side, the answer on the other.

import { FilterChips } from "../filters";
import type { Modality } from "../types";
import { bundle, isEmpty } from "../state";
import { AnswerList } from "./answer";
import { cancel, search } from "./ask";
import { ClipBox } from "./clip";
import { filters, progress, source, status, target, text } from "./state";

const TARGETS: [Modality, string][] = [["audio", "Sound"], ["video", "Picture"]];

const embeds = (modality: Modality): boolean => !bundle.value || modality in bundle.value.tracks;

export function Search() {
  const isRunning = progress.value !== undefined;
  const submit = (event: Event) => {
    event.preventDefault();
    void search();
  };
  return (
    <div class="search">
      <form id="form" class="panel" onSubmit={submit}>
        <h2>Your clip</h2>
        <ClipBox />
        <label class="field">Words, alone or beside the clip
          <input id="text" type="search" maxLength={4096} autocomplete="off" placeholder="dog barking in the rain"
            value={text.value} onInput={(event) => (text.value = event.currentTarget.value)} />
        </label>
        <fieldset class="choice">
          <legend>Find</legend>
          {TARGETS.map(([value, label]) => (
            <label key={value}>
              <input type="radio" name="target" value={value} checked={target.value === value} disabled={!embeds(value)}
                onChange={() => (target.value = value)} />
              <span>{label}</span>
            </label>
          ))}
        </fieldset>
        <label class="field">Search with
          <select id="source" value={source.value} onChange={(event) => (source.value = event.currentTarget.value as "" | Modality)}>
            <option value="">automatic</option>
            <option value="video" disabled={!embeds("video")}>its picture</option>
            <option value="audio" disabled={!embeds("audio")}>its sound</option>
          </select>
        </label>
        <FilterChips filters={filters} isSearch />
        <div class="actions">
          {/* `disabled` would take the focus away */}
          <button id="search" type="submit" aria-disabled={isRunning}>Search</button>
          <button id="cancel" type="button" hidden={!isRunning} onClick={cancel}>Cancel</button>
        </div>
        <progress id="progress" max={1} value={progress.value ?? undefined} aria-label="Progress of the search" hidden={!isRunning} />
        <p id="status" role="status" class="quiet">{status}</p>
      </form>
      <section class="panel" aria-labelledby="answer-title">
        <h2 id="answer-title">Results</h2>
        {isEmpty.value && <EmptyLibrary />}
        <AnswerList />
      </section>
    </div>
  );
}

function EmptyLibrary() {
  return (
    <div id="empty" class="hint">
      <p><strong>The library is empty.</strong> <a href="#/library">Add a folder</a>, or index it from another terminal; the service
        keeps running:</p>
      <pre><code>foley index ~/Videos</code></pre>
      <p class="quiet">With the same <code>FOLEY_DATA</code> and <code>FOLEY_BUNDLE</code>, if they are set.</p>
    </div>
  );
}
